#include "lib/model/text/jinja_expression_parser.h"

#include <algorithm>
#include <charconv>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"

namespace tandem::text {
namespace {

// Real templates nest below 20. Each level costs a dozen C++ frames here, and again when evaluated.
constexpr int kNestingMax = 60;
// "a + b + c + ..." makes a tree as deep as it is long.
constexpr int kTreeDepthMax = 200;

std::vector<ExprPtr> Kids(ExprPtr a, ExprPtr b = nullptr) {
  std::vector<ExprPtr> kids;
  kids.push_back(std::move(a));
  if (b != nullptr) kids.push_back(std::move(b));
  return kids;
}

ExprPtr ConstExpr(Value value, int line) {
  auto node = std::make_unique<Expr>();
  node->kind = ExprKind::kConst;
  node->line = line;
  node->constant = std::move(value);
  return node;
}

struct NestingGuard {
  explicit NestingGuard(int* n) : nesting(n) { ++*nesting; }
  ~NestingGuard() { --*nesting; }
  int* nesting;
};

}  // namespace

bool ExpressionParser::IsOperator(std::string_view op) const {
  return Current().kind == TokenKind::kOperator && Current().text == op;
}
bool ExpressionParser::IsName(std::string_view name) const {
  return Current().kind == TokenKind::kName && Current().text == name;
}
bool ExpressionParser::SkipOperator(std::string_view op) {
  if (!IsOperator(op)) return false;
  Next();
  return true;
}
bool ExpressionParser::SkipName(std::string_view name) {
  if (!IsName(name)) return false;
  Next();
  return true;
}

absl::Status ExpressionParser::Fail(std::string_view what) const {
  return absl::InvalidArgumentError(
      absl::StrCat("chat template line ", Current().line, ": ", base::ToAbsl(what)));
}

absl::Status ExpressionParser::ExpectOperator(std::string_view op) {
  if (SkipOperator(op)) return absl::OkStatus();
  return Fail(absl::StrCat("expected '", base::ToAbsl(op), "', found '", Current().text, "'"));
}

absl::StatusOr<std::string> ExpressionParser::ExpectName() {
  if (Current().kind != TokenKind::kName)
    return Fail(absl::StrCat("expected a name, found '", Current().text, "'"));
  std::string name = Current().text;
  Next();
  return name;
}

absl::StatusOr<ExprPtr> ExpressionParser::Make(ExprKind kind, std::vector<ExprPtr> kids,
                                               std::string name) const {
  auto node = std::make_unique<Expr>();
  node->kind = kind;
  node->line = Current().line;
  node->name = std::move(name);
  for (const ExprPtr& kid : kids) {
    if (kid != nullptr) node->depth = std::max(node->depth, kid->depth + 1);
  }
  if (node->depth > kTreeDepthMax) return Fail("expression is too long or nested too deep");
  node->kids = std::move(kids);
  return node;
}

absl::StatusOr<ExprPtr> ExpressionParser::Expression(bool conditional) {
  const NestingGuard guard(&nesting_);
  if (nesting_ > kNestingMax) return Fail("expression is nested too deep");
  TANDEM_ASSIGN_OR_RETURN(ExprPtr value, Or());
  while (conditional && SkipName("if")) {
    std::vector<ExprPtr> kids = Kids(std::move(value));
    TANDEM_ASSIGN_OR_RETURN(ExprPtr test, Or());
    kids.push_back(std::move(test));
    if (SkipName("else")) {
      TANDEM_ASSIGN_OR_RETURN(ExprPtr otherwise, Expression());
      kids.push_back(std::move(otherwise));
    } else {
      kids.push_back(nullptr);
    }
    TANDEM_ASSIGN_OR_RETURN(value, Make(ExprKind::kCond, std::move(kids)));
  }
  return value;
}

absl::StatusOr<ExprPtr> ExpressionParser::TupleOrExpression(bool conditional) {
  TANDEM_ASSIGN_OR_RETURN(ExprPtr first, Expression(conditional));
  if (!IsOperator(",")) return first;
  std::vector<ExprPtr> items = Kids(std::move(first));
  while (SkipOperator(",")) {
    const TokenKind kind = Current().kind;
    if (kind == TokenKind::kVariableEnd || kind == TokenKind::kBlockEnd || IsOperator(")")) break;
    TANDEM_ASSIGN_OR_RETURN(ExprPtr item, Expression(conditional));
    items.push_back(std::move(item));
  }
  return Make(ExprKind::kTuple, std::move(items));
}

absl::StatusOr<ExprPtr> ExpressionParser::Or() {
  TANDEM_ASSIGN_OR_RETURN(ExprPtr left, And());
  while (SkipName("or")) {
    TANDEM_ASSIGN_OR_RETURN(ExprPtr right, And());
    TANDEM_ASSIGN_OR_RETURN(left, Make(ExprKind::kOr, Kids(std::move(left), std::move(right))));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::And() {
  TANDEM_ASSIGN_OR_RETURN(ExprPtr left, Not());
  while (SkipName("and")) {
    TANDEM_ASSIGN_OR_RETURN(ExprPtr right, Not());
    TANDEM_ASSIGN_OR_RETURN(left, Make(ExprKind::kAnd, Kids(std::move(left), std::move(right))));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::Not() {
  size_t count = 0;
  while (SkipName("not")) ++count;
  TANDEM_ASSIGN_OR_RETURN(ExprPtr node, Compare());
  for (size_t i = 0; i < count; ++i) {
    TANDEM_ASSIGN_OR_RETURN(node, Make(ExprKind::kNot, Kids(std::move(node))));
  }
  return node;
}

absl::StatusOr<ExprPtr> ExpressionParser::Compare() {
  TANDEM_ASSIGN_OR_RETURN(ExprPtr first, Sum());
  std::vector<ExprPtr> kids = Kids(std::move(first));
  std::vector<std::string> operators;
  while (true) {
    bool found = false;
    for (std::string_view op : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (found || !SkipOperator(op)) continue;
      operators.emplace_back(op);
      found = true;
    }
    if (!found && SkipName("in")) {
      operators.emplace_back("in");
    } else if (!found && IsName("not") && Ahead().kind == TokenKind::kName &&
               Ahead().text == "in") {
      Next();
      Next();
      operators.emplace_back("notin");
    } else if (!found) {
      break;
    }
    TANDEM_ASSIGN_OR_RETURN(ExprPtr next, Sum());
    kids.push_back(std::move(next));
  }
  if (operators.empty()) return std::move(kids[0]);
  TANDEM_ASSIGN_OR_RETURN(ExprPtr node, Make(ExprKind::kCompare, std::move(kids)));
  node->names = std::move(operators);
  return node;
}

absl::StatusOr<ExprPtr> ExpressionParser::LeftChain(
    std::initializer_list<std::string_view> operators, Level next) {
  TANDEM_ASSIGN_OR_RETURN(ExprPtr left, (this->*next)());
  while (true) {
    const auto* op =
        std::find_if(operators.begin(), operators.end(), [this](auto o) { return IsOperator(o); });
    if (op == operators.end()) return left;
    Next();
    TANDEM_ASSIGN_OR_RETURN(ExprPtr right, (this->*next)());
    TANDEM_ASSIGN_OR_RETURN(
        left, Make(ExprKind::kBinary, Kids(std::move(left), std::move(right)), std::string(*op)));
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::Sum() {
  return LeftChain({"+", "-"}, &ExpressionParser::Concat);
}

absl::StatusOr<ExprPtr> ExpressionParser::Concat() {
  TANDEM_ASSIGN_OR_RETURN(ExprPtr first, Product());
  if (!IsOperator("~")) return first;
  std::vector<ExprPtr> parts = Kids(std::move(first));
  while (SkipOperator("~")) {
    TANDEM_ASSIGN_OR_RETURN(ExprPtr part, Product());
    parts.push_back(std::move(part));
  }
  return Make(ExprKind::kConcat, std::move(parts));
}

absl::StatusOr<ExprPtr> ExpressionParser::Product() {
  return LeftChain({"*", "/", "//", "%"}, &ExpressionParser::Power);
}

absl::StatusOr<ExprPtr> ExpressionParser::Power() {
  return LeftChain({"**"}, &ExpressionParser::FilteredUnary);
}

absl::StatusOr<ExprPtr> ExpressionParser::FilteredUnary() { return Unary(true); }

absl::StatusOr<ExprPtr> ExpressionParser::Unary(bool with_filters) {
  const NestingGuard guard(&nesting_);
  if (nesting_ > kNestingMax) return Fail("expression is nested too deep");
  ExprPtr node;
  const bool minus = IsOperator("-");
  if (minus || IsOperator("+")) {
    Next();
    TANDEM_ASSIGN_OR_RETURN(ExprPtr operand, Unary(false));
    TANDEM_ASSIGN_OR_RETURN(
        node, Make(minus ? ExprKind::kNegate : ExprKind::kPlus, Kids(std::move(operand))));
  } else {
    TANDEM_ASSIGN_OR_RETURN(node, Primary());
  }
  TANDEM_ASSIGN_OR_RETURN(node, Postfix(std::move(node)));
  if (!with_filters) return node;
  return Filters(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::Primary() {
  const Token& token = Current();
  if (token.kind == TokenKind::kName) {
    const std::string name = token.text;
    const int line = token.line;
    Next();
    if (name == "true" || name == "True") return ConstExpr(Value(true), line);
    if (name == "false" || name == "False") return ConstExpr(Value(false), line);
    if (name == "none" || name == "None") return ConstExpr(Value(None{}), line);
    return Make(ExprKind::kName, {}, name);
  }
  if (token.kind == TokenKind::kOperator) {
    if (token.text == "(") return Parenthesized();
    if (token.text == "[") return ListLiteral();
    if (token.text == "{") return DictLiteral();
  }
  return Constant();
}

absl::StatusOr<ExprPtr> ExpressionParser::Constant() {
  const Token token = Current();
  if (token.kind == TokenKind::kString) {
    std::string text;
    for (; Current().kind == TokenKind::kString; Next()) text += Current().text;
    return ConstExpr(Value(std::move(text)), token.line);
  }
  if (token.kind == TokenKind::kInteger) {
    int64_t value = 0;
    if (!absl::SimpleAtoi(token.text, &value)) return Fail("integer beyond 64 bits");
    Next();
    return ConstExpr(Value(value), token.line);
  }
  if (token.kind == TokenKind::kFloat) {
    double value = 0;
    std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
    Next();
    return ConstExpr(Value(value), token.line);
  }
  return Fail(absl::StrCat("expected an expression, found '", token.text, "'"));
}

absl::StatusOr<ExprPtr> ExpressionParser::Parenthesized() {
  Next();
  if (SkipOperator(")")) return Make(ExprKind::kTuple, {});
  TANDEM_ASSIGN_OR_RETURN(ExprPtr node, TupleOrExpression());
  TANDEM_RETURN_IF_ERROR(ExpectOperator(")"));
  return node;
}

absl::StatusOr<ExprPtr> ExpressionParser::ListLiteral() {
  Next();
  std::vector<ExprPtr> items;
  while (!SkipOperator("]")) {
    if (!items.empty()) TANDEM_RETURN_IF_ERROR(ExpectOperator(","));
    if (SkipOperator("]")) break;
    TANDEM_ASSIGN_OR_RETURN(ExprPtr item, Expression());
    items.push_back(std::move(item));
  }
  return Make(ExprKind::kList, std::move(items));
}

absl::StatusOr<ExprPtr> ExpressionParser::DictLiteral() {
  Next();
  std::vector<ExprPtr> items;
  while (!SkipOperator("}")) {
    if (!items.empty()) TANDEM_RETURN_IF_ERROR(ExpectOperator(","));
    if (SkipOperator("}")) break;
    TANDEM_ASSIGN_OR_RETURN(ExprPtr key, Expression());
    items.push_back(std::move(key));
    TANDEM_RETURN_IF_ERROR(ExpectOperator(":"));
    TANDEM_ASSIGN_OR_RETURN(ExprPtr value, Expression());
    items.push_back(std::move(value));
  }
  return Make(ExprKind::kDict, std::move(items));
}

absl::StatusOr<ExprPtr> ExpressionParser::Postfix(ExprPtr node) {
  while (true) {
    if (IsOperator(".")) {
      TANDEM_ASSIGN_OR_RETURN(node, Attribute(std::move(node)));
    } else if (IsOperator("[")) {
      TANDEM_ASSIGN_OR_RETURN(node, Subscript(std::move(node)));
    } else if (IsOperator("(")) {
      TANDEM_ASSIGN_OR_RETURN(node, Arguments(ExprKind::kCall, std::move(node), ""));
    } else {
      return node;
    }
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::Filters(ExprPtr node) {
  while (true) {
    if (IsOperator("|")) {
      TANDEM_ASSIGN_OR_RETURN(node, Filter(std::move(node)));
    } else if (IsName("is")) {
      TANDEM_ASSIGN_OR_RETURN(node, Test(std::move(node)));
    } else if (IsOperator("(")) {
      TANDEM_ASSIGN_OR_RETURN(node, Arguments(ExprKind::kCall, std::move(node), ""));
    } else {
      return node;
    }
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::Attribute(ExprPtr node) {
  Next();
  if (Current().kind == TokenKind::kInteger) {
    TANDEM_ASSIGN_OR_RETURN(ExprPtr index, Constant());
    return Make(ExprKind::kItem, Kids(std::move(node), std::move(index)));
  }
  TANDEM_ASSIGN_OR_RETURN(const std::string name, ExpectName());
  return Make(ExprKind::kAttr, Kids(std::move(node)), name);
}

absl::StatusOr<ExprPtr> ExpressionParser::Subscript(ExprPtr node) {
  Next();
  std::vector<ExprPtr> kids = Kids(std::move(node));
  bool slice = false;
  // start:stop:step, each of them optional
  for (int part = 0; part < 3; ++part) {
    ExprPtr bound;
    if (!IsOperator(":") && !IsOperator("]")) {
      TANDEM_ASSIGN_OR_RETURN(bound, Expression());
    }
    kids.push_back(std::move(bound));
    if (!SkipOperator(":")) break;
    slice = true;
  }
  TANDEM_RETURN_IF_ERROR(ExpectOperator("]"));
  if (!slice) {
    if (kids[1] == nullptr) return Fail("expected a subscript, found ']'");
    return Make(ExprKind::kItem, std::move(kids));
  }
  kids.resize(4);
  return Make(ExprKind::kSlice, std::move(kids));
}

absl::StatusOr<ExprPtr> ExpressionParser::Filter(ExprPtr node) {
  Next();
  TANDEM_ASSIGN_OR_RETURN(std::string name, ExpectName());
  if (IsOperator("(")) return Arguments(ExprKind::kFilter, std::move(node), std::move(name));
  return Make(ExprKind::kFilter, Kids(std::move(node)), std::move(name));
}

bool ExpressionParser::StartsTestArgument() const {
  const TokenKind kind = Current().kind;
  if (kind == TokenKind::kName) {
    const std::string& name = Current().text;
    return name != "else" && name != "or" && name != "and" && name != "is" && name != "if" &&
           name != "in" && name != "not";
  }
  return kind == TokenKind::kString || kind == TokenKind::kInteger || kind == TokenKind::kFloat ||
         IsOperator("[") || IsOperator("{");
}

absl::StatusOr<ExprPtr> ExpressionParser::Test(ExprPtr node) {
  Next();
  const bool negated = SkipName("not");
  TANDEM_ASSIGN_OR_RETURN(std::string name, ExpectName());
  ExprPtr test;
  if (IsOperator("(")) {
    TANDEM_ASSIGN_OR_RETURN(test, Arguments(ExprKind::kTest, std::move(node), std::move(name)));
  } else {
    std::vector<ExprPtr> kids = Kids(std::move(node));
    if (StartsTestArgument()) {
      TANDEM_ASSIGN_OR_RETURN(ExprPtr argument, Primary());
      TANDEM_ASSIGN_OR_RETURN(argument, Postfix(std::move(argument)));
      kids.push_back(std::move(argument));
    }
    TANDEM_ASSIGN_OR_RETURN(test, Make(ExprKind::kTest, std::move(kids), std::move(name)));
  }
  if (!negated) return test;
  return Make(ExprKind::kNot, Kids(std::move(test)));
}

absl::StatusOr<ExprPtr> ExpressionParser::Arguments(ExprKind kind, ExprPtr node, std::string name) {
  Next();
  std::vector<ExprPtr> kids = Kids(std::move(node));
  std::vector<std::string> keywords;
  for (bool first = true; !SkipOperator(")"); first = false) {
    if (!first) TANDEM_RETURN_IF_ERROR(ExpectOperator(","));
    if (SkipOperator(")")) break;
    if (IsOperator("*") || IsOperator("**")) return Fail("'*' arguments are not supported");
    const bool keyword = Current().kind == TokenKind::kName &&
                         Ahead().kind == TokenKind::kOperator && Ahead().text == "=";
    if (keyword) {
      keywords.push_back(Current().text);
      Next();
      Next();
    } else if (!keywords.empty()) {
      return Fail("positional argument after a keyword argument");
    }
    TANDEM_ASSIGN_OR_RETURN(ExprPtr argument, Expression());
    kids.push_back(std::move(argument));
  }
  TANDEM_ASSIGN_OR_RETURN(ExprPtr call, Make(kind, std::move(kids), std::move(name)));
  call->names = std::move(keywords);
  return call;
}

}  // namespace tandem::text
