// The expression half of the chat-template parser.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lib/model/text/jinja_ast.h"
#include "lib/model/text/jinja_lexer.h"

namespace tandem::text {

class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& Current() const { return tokens_[at_]; }
  const Token& Ahead() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  void Next() { at_ += at_ + 1 < tokens_.size() ? 1 : 0; }

  bool IsOperator(std::string_view op) const;
  bool IsName(std::string_view name) const;
  bool SkipOperator(std::string_view op);
  bool SkipName(std::string_view name);
  absl::Status ExpectOperator(std::string_view op);
  absl::StatusOr<std::string> ExpectName();
  absl::Status Fail(std::string_view what) const;

  // A whole expression; `conditional`: with "a if b else c".
  absl::StatusOr<ExprPtr> Expression(bool conditional = true);
  // One expression, or several with commas, which make a tuple.
  absl::StatusOr<ExprPtr> TupleOrExpression(bool conditional = true);

 private:
  using Level = absl::StatusOr<ExprPtr> (ExpressionParser::*)();
  absl::StatusOr<ExprPtr> LeftChain(std::initializer_list<std::string_view> operators, Level next);
  absl::StatusOr<ExprPtr> Make(ExprKind kind, std::vector<ExprPtr> kids,
                               std::string name = "") const;
  absl::StatusOr<ExprPtr> Or();
  absl::StatusOr<ExprPtr> And();
  absl::StatusOr<ExprPtr> Not();
  absl::StatusOr<ExprPtr> Compare();
  absl::StatusOr<ExprPtr> Sum();
  absl::StatusOr<ExprPtr> Concat();
  absl::StatusOr<ExprPtr> Product();
  absl::StatusOr<ExprPtr> Power();
  absl::StatusOr<ExprPtr> FilteredUnary();
  absl::StatusOr<ExprPtr> Unary(bool with_filters);
  absl::StatusOr<ExprPtr> Primary();
  absl::StatusOr<ExprPtr> Constant();
  absl::StatusOr<ExprPtr> Parenthesized();
  absl::StatusOr<ExprPtr> ListLiteral();
  absl::StatusOr<ExprPtr> DictLiteral();
  absl::StatusOr<ExprPtr> Postfix(ExprPtr node);
  absl::StatusOr<ExprPtr> Filters(ExprPtr node);
  absl::StatusOr<ExprPtr> Attribute(ExprPtr node);
  absl::StatusOr<ExprPtr> Subscript(ExprPtr node);
  absl::StatusOr<ExprPtr> Filter(ExprPtr node);
  absl::StatusOr<ExprPtr> Test(ExprPtr node);
  absl::StatusOr<ExprPtr> Arguments(ExprKind kind, ExprPtr node, std::string name);
  bool StartsTestArgument() const;

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
};

}  // namespace tandem::text
