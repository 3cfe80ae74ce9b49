// LoadedSuite: a Suite whose questions are all in memory. All suites are this; they differ in how
// they are read.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "eval_client/suites/suite.h"

namespace tandem::eval {

class LoadedSuite : public Suite {
 public:
  LoadedSuite(std::string name, std::vector<Question> questions, AnswerParser headline,
              std::string data_digest)
      : name_(std::move(name)),
        questions_(std::move(questions)),
        headline_(headline),
        data_digest_(std::move(data_digest)) {}

  const std::string& name() const override { return name_; }
  const std::vector<Question>& questions() const override { return questions_; }
  AnswerParser headline_parser() const override { return headline_; }
  const std::string& data_digest() const override { return data_digest_; }

 private:
  const std::string name_;
  const std::vector<Question> questions_;
  const AnswerParser headline_;
  const std::string data_digest_;
};

// What a loader has read, before the options that are the same for all suites. `files_text` is what
// the digest covers.
std::unique_ptr<Suite> MakeLoadedSuite(const SuiteOptions& options, std::vector<Question> questions,
                                       AnswerParser headline, const std::string& files_text);

// Refuses options that a suite has no use for: a variant that is not among `variants`, of which the
// first is the default, more than `shots_max` shots, or several samples where `has_samples` is
// false. Returns the variant.
absl::StatusOr<std::string> CheckOptions(const SuiteOptions& options,
                                         const std::vector<std::string>& variants, int shots_max,
                                         bool has_samples);

}  // namespace tandem::eval
