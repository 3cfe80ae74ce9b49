// What a step's tokens cost the CPU, by hand: from whole rows of logits, as a sampler without help
// has it, and from what NextTokens asks for, with the logits in host memory (the host backend) and
// with the questions answered elsewhere (a device: what is left for the CPU). See --help.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "gpu_worker/backend/host/host_logits.h"
#include "gpu_worker/engine/row_answers.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker {
namespace {

using sampling::v1::SamplingParams;

// Milliseconds of the median of five runs.
double Milliseconds(const std::function<void()>& work) {
  std::vector<double> times;
  for (int i = 0; i < 5; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    times.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
            .count());
  }
  std::sort(times.begin(), times.end());
  return times[2];
}

// Gives the answers that another source gave to the same questions, in their order.
class Remembered : public RowLogits {
 public:
  explicit Remembered(RowLogits& source) : source_(source) {}
  void Best(int64_t k, BestLogits* best) override {
    if (best_.k != k) source_.Best(k, &best_);
    *best = best_;
  }
  void WeightSums(std::span<const WeightSumAsk> asks, std::vector<uint64_t>* sums) override {
    if (sums_.size() != asks.size()) source_.WeightSums(asks, &sums_);
    *sums = sums_;
  }
  void At(std::span<const LogitPlace> places, std::vector<float>* values) override {
    if (values_.size() != places.size()) source_.At(places, &values_);
    *values = values_;
  }
  void Rows(std::span<const int64_t> rows, std::vector<float>* logits) override {
    source_.Rows(rows, logits);
  }

 private:
  RowLogits& source_;
  BestLogits best_;
  std::vector<uint64_t> sums_;
  std::vector<float> values_;
};

struct Kind {
  const char* name;
  SamplingParams params;
};

std::vector<Kind> Kinds() {
  std::vector<Kind> kinds = {{"greedy", {}},
                             {"greedy, log probability", {}},
                             {"top-k 40, top-p 0.95", {}},
                             {"top-p 0.95", {}},
                             {"greedy, repetition penalty", {}}};
  kinds[1].params.set_logprobs(true);
  for (const int i : {2, 3}) {
    kinds[i].params.set_temperature(0.6f);
    kinds[i].params.set_top_p(0.95f);
  }
  kinds[2].params.set_top_k(40);
  kinds[4].params.set_repetition_penalty(1.1f);
  return kinds;
}

void Run(int64_t rows, int64_t vocab, int threads) {
  base::ThreadPool pool(threads);
  HostLogits logits(vocab, {0, vocab}, pool);
  const std::span<float> values = logits.Reset(rows);
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 2.5);
  for (float& v : values) v = normal(random);
  // A model has favourites: a few logits far above the noise.
  for (int64_t r = 0; r < rows; ++r) {
    for (int i = 0; i < 20; ++i) values[r * vocab + random() % vocab] = 16 + normal(random);
  }
  std::vector<uint32_t> tokens(1000);
  for (uint32_t& t : tokens) t = static_cast<uint32_t>(random() % vocab);

  std::printf("%lld rows, %lld tokens in the vocabulary, %d threads, ms a step\n",
              static_cast<long long>(rows), static_cast<long long>(vocab), threads);
  std::printf("%-28s %12s %12s %12s %6s\n", "", "whole rows", "host", "cpu's part", "whole");
  for (const Kind& kind : Kinds()) {
    const std::vector<SampleInput> inputs(rows, {{}, &kind.params, tokens, 10});
    std::vector<uint32_t> expected(rows), found(rows);
    const double whole = Milliseconds([&] {
      for (int64_t r = 0; r < rows; ++r) {
        SampleInput input = inputs[r];
        input.logits = values.subspan(r * vocab, vocab);
        TANDEM_CHECK(CheckLogits(input.logits).ok());
        expected[r] = SampleToken(input);
        if (kind.params.logprobs()) (void)Logprobs(input.logits, expected[r], 0);
      }
    });
    int64_t read_whole = 0;
    const auto ask = [&](RowLogits& source) {
      read_whole = 0;
      const std::vector<RowAnswer> answers = NextTokens(source, vocab, inputs, &read_whole);
      for (int64_t r = 0; r < rows; ++r) found[r] = answers[r].token;
      TANDEM_CHECK(found == expected);
    };
    const double host = Milliseconds([&] { ask(logits); });
    Remembered remembered(logits);
    ask(remembered);
    const double rest = Milliseconds([&] { ask(remembered); });
    std::printf("%-28s %12.3f %12.3f %12.3f %6lld\n", kind.name, whole, host, rest,
                static_cast<long long>(read_whole));
  }
}

}  // namespace
}  // namespace tandem::gpu_worker

int main(int argc, char** argv) {
  CLI::App app("CPU time of a step's tokens: from whole rows of logits and from what is asked for");
  int64_t rows = 64, vocab = 129280;
  int threads = 1;
  app.add_option("--rows", rows, "rows of the step")->check(CLI::Range(1, 1024));
  app.add_option("--vocab", vocab, "tokens in the vocabulary")->check(CLI::Range(100, 262144));
  app.add_option("--threads", threads, "threads of the host backend")->check(CLI::Range(1, 1024));
  CLI11_PARSE(app, argc, argv);
  tandem::gpu_worker::Run(rows, vocab, threads);
  return 0;
}
