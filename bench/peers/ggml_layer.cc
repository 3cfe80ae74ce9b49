// ggml_layer: one expert layer on the ggml of llama.cpp or ik_llama.cpp, driven over stdin by
// bench/run peers, so that engines take turns on a quiet machine. docs/benchmarks.md has the
// commands. Arguments: weights file, hidden size, intermediate size, gate/up type, down type,
// experts in the file, experts in memory, experts per run, inputs file, form (stored or own).
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "ggml_layer_ops.h"

namespace tandem::bench {
namespace {

struct Options {
  std::string weights, inputs, form;
  int64_t hidden = 0, inter = 0;
  ggml_type gate_up = GGML_TYPE_COUNT, down = GGML_TYPE_COUNT;
  int64_t distinct = 0, experts = 0, used = 0;
};

[[noreturn]] void Unsupported(const std::string& why) {
  std::printf("{\"unsupported\": \"%s\"}\n", why.c_str());
  std::exit(0);
}

[[noreturn]] void Fail(const std::string& why) {
  std::fprintf(stderr, "ggml_layer: %s\n", why.c_str());
  std::exit(2);
}

ggml_type TypeNamed(const std::string& name) {
  for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
    const char* known = ggml_type_name(static_cast<ggml_type>(i));
    if (known != nullptr && name == known) return static_cast<ggml_type>(i);
  }
  Unsupported("no type " + name);
}

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The rows of one matrix of every expert: the file's experts over and over.
void FillMatrix(const Options& options, size_t skip, size_t bytes, size_t expert_bytes, char* out) {
  std::ifstream file(options.weights, std::ios::binary);
  for (int64_t e = 0; e < options.experts; ++e) {
    if (e >= options.distinct) {
      std::memcpy(out + e * bytes, out + e % options.distinct * bytes, bytes);
      continue;
    }
    file.seekg(static_cast<std::streamoff>(e * expert_bytes + skip));
    if (!file.read(out + e * bytes, static_cast<std::streamsize>(bytes)))
      Fail("expected " + std::to_string(options.distinct) + " experts in " + options.weights);
  }
}

Layer DeclareLayer(ggml_context* ctx, const Options& options) {
  Layer layer;
  layer.gate =
      ggml_new_tensor_3d(ctx, options.gate_up, options.hidden, options.inter, options.experts);
  layer.up =
      ggml_new_tensor_3d(ctx, options.gate_up, options.hidden, options.inter, options.experts);
  layer.down =
      ggml_new_tensor_3d(ctx, options.down, options.inter, options.hidden, options.experts);
  ggml_set_name(layer.gate, "blk.0.ffn_gate_exps.weight");
  ggml_set_name(layer.up, "blk.0.ffn_up_exps.weight");
  ggml_set_name(layer.down, "blk.0.ffn_down_exps.weight");
  return layer;
}

// Calls put(tensor, skip) for each matrix, `skip` being its place inside an expert of the file.
template <typename Put>
void ForEachMatrix(const Layer& layer, int64_t experts, const Put& put) {
  const size_t gate = ggml_nbytes(layer.gate) / experts, down = ggml_nbytes(layer.down) / experts;
  put(layer.gate, size_t{0}, gate, 2 * gate + down);
  put(layer.up, gate, gate, 2 * gate + down);
  put(layer.down, 2 * gate, down, 2 * gate + down);
}

void PlaceOnHugePages(const Layer& layer, const Options& options) {
  ForEachMatrix(layer, options.experts,
                [&](ggml_tensor* tensor, size_t skip, size_t bytes, size_t each) {
                  void* memory = HugePages(ggml_nbytes(tensor));
                  if (memory == nullptr)
                    Fail("no memory for " + std::to_string(ggml_nbytes(tensor)) + " bytes");
                  ggml_backend_buffer_t buffer =
                      ggml_backend_cpu_buffer_from_ptr(memory, ggml_nbytes(tensor));
                  ggml_backend_buffer_set_usage(buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
                  ggml_backend_tensor_alloc(buffer, tensor, memory);
                  FillMatrix(options, skip, bytes, each, static_cast<char*>(tensor->data));
                });
}

// The engine's own form; returns its name.
std::string PlaceInOwnForm(ggml_context* ctx, const Layer& layer, const Options& options) {
#if GGML_IS_IK
  PlaceOnHugePages(layer, options);
  const std::string why_not = RepackInPlace(layer);
  if (!why_not.empty()) Unsupported(why_not);
  return std::string("repacked ") + ggml_type_name(layer.gate->type) + " " +
         ggml_type_name(layer.down->type);
#else
  std::string refused;
  for (ggml_backend_buffer_type_t type : OwnFormBuffers()) {
    if (!SupportsById(type, layer.gate) || !SupportsById(type, layer.down)) {
      refused += std::string(refused.empty() ? "" : ", ") + ggml_backend_buft_name(type);
      continue;
    }
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors_from_buft(ctx, type);
    if (buffer == nullptr)
      Fail(std::string("no memory for a buffer of type ") + ggml_backend_buft_name(type));
    ggml_backend_buffer_set_usage(buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    ForEachMatrix(layer, options.experts,
                  [&](ggml_tensor* tensor, size_t skip, size_t bytes, size_t each) {
                    std::vector<char> stored(ggml_nbytes(tensor));
                    FillMatrix(options, skip, bytes, each, stored.data());
                    ggml_backend_tensor_set(tensor, stored.data(), 0, stored.size());
                  });
    return ggml_backend_buft_name(type);
  }
  Unsupported("no buffer of its own for products by expert of these types (asked: " +
              (refused.empty() ? "none" : refused) + ")");
#endif
}

// The graph for one number of rows, with its inputs and the memory between its operations.
class Graph {
 public:
  Graph(const Options& options, const Layer& layer, ggml_backend_t backend,
        const std::vector<float>& inputs, int64_t rows)
      : options_(options), backend_(backend), rows_(rows) {
    ctx_ = ggml_init({size_t{4} << 20, nullptr, /*no_alloc=*/true});
    ggml_tensor* x = ggml_new_tensor_3d(ctx_, GGML_TYPE_F32, options.hidden, 1, rows);
    ids_ = ggml_new_tensor_2d(ctx_, GGML_TYPE_I32, options.used, rows);
    ggml_tensor* weights = ggml_new_tensor_3d(ctx_, GGML_TYPE_F32, 1, options.used, rows);
    for (ggml_tensor* tensor : {x, ids_, weights}) ggml_set_input(tensor);
    ggml_tensor* outputs = ggml_mul_mat_id(ctx_, layer.down, Activated(ctx_, layer, x, ids_), ids_);
    out_ = WeightedSum(ctx_, outputs, weights);
    ggml_set_output(out_);
    graph_ = ggml_new_graph(ctx_);
    ggml_build_forward_expand(graph_, out_);
    allocator_ = ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend));
    if (!ggml_gallocr_alloc_graph(allocator_, graph_)) Fail("no memory for the graph");
    ggml_backend_tensor_set(x, inputs.data(), 0, ggml_nbytes(x));
    const std::vector<float> equal(options.used * rows, 1.0f / static_cast<float>(options.used));
    ggml_backend_tensor_set(weights, equal.data(), 0, ggml_nbytes(weights));
  }
  ~Graph() {
    ggml_gallocr_free(allocator_);
    ggml_free(ctx_);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  double Run(int64_t first, int threads) {
    std::vector<int32_t> ids(options_.used * rows_);
    for (size_t i = 0; i < ids.size(); ++i)
      ids[i] = static_cast<int32_t>(first + i % options_.used);
    ggml_backend_tensor_set(ids_, ids.data(), 0, ggml_nbytes(ids_));
    ggml_backend_cpu_set_n_threads(backend_, threads);
    const double start = Seconds();
    if (ggml_backend_graph_compute(backend_, graph_) != GGML_STATUS_SUCCESS)
      Fail("the graph failed");
    return Seconds() - start;
  }

  std::vector<float> Output() const {
    std::vector<float> y(options_.hidden * rows_);
    ggml_backend_tensor_get(out_, y.data(), 0, ggml_nbytes(out_));
    return y;
  }

 private:
  const Options& options_;
  ggml_backend_t backend_;
  int64_t rows_;
  ggml_context* ctx_ = nullptr;
  ggml_cgraph* graph_ = nullptr;
  ggml_gallocr_t allocator_ = nullptr;
  ggml_tensor* ids_ = nullptr;
  ggml_tensor* out_ = nullptr;
};

void PrintList(const char* name, const std::vector<float>& values) {
  std::printf("{\"%s\": [", name);
  for (size_t i = 0; i < values.size(); ++i) std::printf("%s%.9g", i == 0 ? "" : ", ", values[i]);
  std::printf("]}\n");
}

// Serves "run THREADS ROWS RUNS_MIN SECONDS" and "check THREADS ROWS VALUES" until stdin ends.
void Serve(const Options& options, const Layer& layer, const std::vector<float>& inputs) {
  ggml_backend_t backend = ggml_backend_cpu_init();
  std::map<int64_t, Graph> graphs;
  int64_t first = 0;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command;
    int threads = 0;
    int64_t rows = 0, count = 0;
    double seconds = 0;
    words >> command >> threads >> rows >> count >> seconds;
    if (threads < 1 || rows < 1 || rows * options.hidden > static_cast<int64_t>(inputs.size()))
      Fail("cannot do: " + line);
    Graph& graph = graphs.try_emplace(rows, options, layer, backend, inputs, rows).first->second;
    if (command == "check") {
      graph.Run(0, threads);
      std::vector<float> y = graph.Output();
      y.resize(count);
      PrintList("y", y);
    } else {
      std::vector<float> took;
      const double end = Seconds() + seconds;
      while (static_cast<int64_t>(took.size()) < count || Seconds() < end) {
        took.push_back(static_cast<float>(graph.Run(first, threads)));
        first = (first + options.used) % options.experts;
      }
      PrintList("seconds", took);
    }
    std::fflush(stdout);
  }
}

std::vector<float> ReadInputs(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamoff bytes = file.tellg();
  if (bytes <= 0) Fail("expected inputs in " + path);
  std::vector<float> values(bytes / sizeof(float));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(values.data()), bytes);
  return values;
}

int Main(int argc, char** argv) {
  if (argc != 11) Fail("expected ten arguments, see the head of its source");
  Options options;
  options.weights = argv[1];
  options.hidden = std::atoll(argv[2]);
  options.inter = std::atoll(argv[3]);
  options.gate_up = TypeNamed(argv[4]);
  options.down = TypeNamed(argv[5]);
  options.distinct = std::atoll(argv[6]);
  options.experts = std::atoll(argv[7]);
  options.used = std::atoll(argv[8]);
  options.inputs = argv[9];
  options.form = argv[10];
  const std::vector<float> inputs = ReadInputs(options.inputs);
  ggml_context* ctx = ggml_init({1 << 20, nullptr, /*no_alloc=*/true});
  const Layer layer = DeclareLayer(ctx, options);
  std::string form = "as stored";
  if (options.form == "own")
    form = PlaceInOwnForm(ctx, layer, options);
  else
    PlaceOnHugePages(layer, options);
  std::printf("{\"ready\": \"%s\", \"form\": \"%s\"}\n", kEngine, form.c_str());
  std::fflush(stdout);
  Serve(options, layer, inputs);
  return 0;
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) { return tandem::bench::Main(argc, argv); }
