// LoadedSuite: a Suite whose questions are all in memory. Both suites are this; they differ in how
// they are read.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "eval_client/suites/suite.h"

namespace tandem::eval {

class LoadedSuite : public Suite {
 public:
  // `limit` > 0 keeps only the first so many questions.
  LoadedSuite(std::string name, std::vector<Question> questions, int limit, AnswerParser headline,
              std::string data_digest)
      : name_(std::move(name)),
        questions_(std::move(questions)),
        headline_(headline),
        data_digest_(std::move(data_digest)) {
    if (limit > 0 && static_cast<size_t>(limit) < questions_.size()) questions_.resize(limit);
  }

  const std::string& name() const override { return name_; }
  const std::vector<Question>& questions() const override { return questions_; }
  AnswerParser headline_parser() const override { return headline_; }
  const std::string& data_digest() const override { return data_digest_; }

 private:
  const std::string name_;
  std::vector<Question> questions_;
  const AnswerParser headline_;
  const std::string data_digest_;
};

}  // namespace tandem::eval
