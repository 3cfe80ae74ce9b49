#include "lib/model/text/jinja_parser.h"

#include <initializer_list>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/model/text/jinja_expression_parser.h"
#include "lib/model/text/jinja_lexer.h"

namespace tandem::text {
namespace {

constexpr int kBlockNestingMax = 40;

using Ends = std::initializer_list<std::string_view>;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : in_(std::move(tokens)) {}

  absl::StatusOr<Block> Run() {
    TANDEM_ASSIGN_OR_RETURN(Block body, Body({}));
    return body;
  }

 private:
  std::unique_ptr<Stmt> New(StmtKind kind) const {
    auto made = std::make_unique<Stmt>();
    made->kind = kind;
    made->line = in_.Current().line;
    return made;
  }

  absl::Status EndBlock() {
    if (in_.Current().kind != TokenKind::kBlockEnd) {
      return in_.Fail(
          absl::StrCat("expected the end of the tag, found '", in_.Current().text, "'"));
    }
    in_.Next();
    return absl::OkStatus();
  }

  // Statements up to a tag named in `ends`, whose name stays unread; with no ends, up to the end of
  // the template.
  absl::StatusOr<Block> Body(Ends ends) {
    if (++nesting_ > kBlockNestingMax) return in_.Fail("blocks are nested too deep");
    Block body;
    while (in_.Current().kind != TokenKind::kEnd) {
      if (in_.Current().kind == TokenKind::kBlockBegin) {
        in_.Next();
        for (std::string_view end : ends) {
          if (!in_.IsName(end)) continue;
          --nesting_;
          return body;
        }
        TANDEM_ASSIGN_OR_RETURN(auto statement, Statement());
        body.push_back(std::move(statement));
        continue;
      }
      TANDEM_ASSIGN_OR_RETURN(auto statement, TextOrOutput());
      body.push_back(std::move(statement));
    }
    if (ends.size() != 0)
      return in_.Fail(
          absl::StrCat("unexpected end of template, expected '", std::string(*ends.begin()), "'"));
    --nesting_;
    return body;
  }

  absl::StatusOr<std::unique_ptr<Stmt>> TextOrOutput() {
    auto made = New(StmtKind::kText);
    if (in_.Current().kind == TokenKind::kData) {
      made->name = in_.Current().text;
      in_.Next();
      return made;
    }
    in_.Next();  // {{
    made->kind = StmtKind::kOutput;
    TANDEM_ASSIGN_OR_RETURN(ExprPtr value, in_.TupleOrExpression());
    made->exprs.push_back(std::move(value));
    if (in_.Current().kind != TokenKind::kVariableEnd) {
      return in_.Fail(absl::StrCat("expected '}}', found '", in_.Current().text, "'"));
    }
    in_.Next();
    return made;
  }

  absl::StatusOr<std::unique_ptr<Stmt>> Statement() {
    auto made = New(StmtKind::kPlain);
    TANDEM_ASSIGN_OR_RETURN(const std::string tag, in_.ExpectName());
    absl::Status status;
    if (tag == "if") {
      status = If(made.get());
    } else if (tag == "for") {
      status = For(made.get());
    } else if (tag == "set") {
      status = Set(made.get());
    } else if (tag == "macro") {
      status = MacroTag(made.get());
    } else if (tag == "generation") {
      status = Enclosed(made.get(), "endgeneration");
    } else if (tag == "break" || tag == "continue") {
      if (loops_ == 0) return in_.Fail(absl::StrCat("'", tag, "' outside of a loop"));
      made->kind = tag == "break" ? StmtKind::kBreak : StmtKind::kContinue;
      status = EndBlock();
    } else {
      return in_.Fail(absl::StrCat("tag '", tag, "' is unknown or not supported"));
    }
    if (!status.ok()) return status;
    return made;
  }

  absl::Status Enclosed(Stmt* made, std::string_view end) {
    TANDEM_RETURN_IF_ERROR(EndBlock());
    TANDEM_ASSIGN_OR_RETURN(Block body, Body({end}));
    made->blocks.push_back(std::move(body));
    in_.Next();
    return EndBlock();
  }

  absl::Status If(Stmt* made) {
    made->kind = StmtKind::kIf;
    while (true) {
      TANDEM_ASSIGN_OR_RETURN(ExprPtr test, in_.TupleOrExpression(/*conditional=*/false));
      made->exprs.push_back(std::move(test));
      TANDEM_RETURN_IF_ERROR(EndBlock());
      TANDEM_ASSIGN_OR_RETURN(Block body, Body({"endif", "elif", "else"}));
      made->blocks.push_back(std::move(body));
      if (!in_.SkipName("elif")) break;
    }
    if (in_.SkipName("else")) {
      TANDEM_RETURN_IF_ERROR(EndBlock());
      TANDEM_ASSIGN_OR_RETURN(Block body, Body({"endif"}));
      made->blocks.push_back(std::move(body));
    }
    in_.Next();
    return EndBlock();
  }

  // One name, or several with commas, perhaps in parentheses; `dotted` allows ns.attr.
  absl::Status Targets(bool dotted, std::vector<std::string>* names) {
    const bool parentheses = in_.SkipOperator("(");
    do {
      TANDEM_ASSIGN_OR_RETURN(std::string name, in_.ExpectName());
      if (dotted && in_.SkipOperator(".")) {
        TANDEM_ASSIGN_OR_RETURN(const std::string attribute, in_.ExpectName());
        absl::StrAppend(&name, ".", attribute);
      }
      names->push_back(std::move(name));
    } while (in_.SkipOperator(","));
    return parentheses ? in_.ExpectOperator(")") : absl::OkStatus();
  }

  absl::Status For(Stmt* made) {
    made->kind = StmtKind::kFor;
    TANDEM_RETURN_IF_ERROR(Targets(/*dotted=*/false, &made->names));
    if (!in_.SkipName("in")) return in_.Fail("expected 'in'");
    TANDEM_ASSIGN_OR_RETURN(ExprPtr iterable, in_.TupleOrExpression(/*conditional=*/false));
    made->exprs.push_back(std::move(iterable));
    ExprPtr filter;
    if (in_.SkipName("if")) {
      TANDEM_ASSIGN_OR_RETURN(filter, in_.Expression());
    }
    made->exprs.push_back(std::move(filter));
    if (in_.IsName("recursive")) return in_.Fail("recursive loops are not supported");
    TANDEM_RETURN_IF_ERROR(EndBlock());
    ++loops_;
    TANDEM_ASSIGN_OR_RETURN(Block body, Body({"endfor", "else"}));
    --loops_;
    made->blocks.push_back(std::move(body));
    if (in_.SkipName("else")) {
      TANDEM_RETURN_IF_ERROR(EndBlock());
      TANDEM_ASSIGN_OR_RETURN(Block otherwise, Body({"endfor"}));
      made->blocks.push_back(std::move(otherwise));
    }
    in_.Next();
    return EndBlock();
  }

  absl::Status Set(Stmt* made) {
    TANDEM_RETURN_IF_ERROR(Targets(/*dotted=*/true, &made->names));
    if (in_.SkipOperator("=")) {
      made->kind = StmtKind::kSet;
      TANDEM_ASSIGN_OR_RETURN(ExprPtr value, in_.TupleOrExpression());
      made->exprs.push_back(std::move(value));
      return EndBlock();
    }
    made->kind = StmtKind::kSetBlock;
    if (made->names.size() != 1) return in_.Fail("a set block has one target");
    if (in_.IsOperator("|")) return in_.Fail("filters on a set block are not supported");
    return Enclosed(made, "endset");
  }

  absl::Status MacroTag(Stmt* made) {
    made->kind = StmtKind::kMacro;
    TANDEM_ASSIGN_OR_RETURN(made->name, in_.ExpectName());
    TANDEM_RETURN_IF_ERROR(in_.ExpectOperator("("));
    while (!in_.SkipOperator(")")) {
      if (!made->names.empty()) TANDEM_RETURN_IF_ERROR(in_.ExpectOperator(","));
      TANDEM_ASSIGN_OR_RETURN(std::string parameter, in_.ExpectName());
      made->names.push_back(std::move(parameter));
      ExprPtr preset;
      if (in_.SkipOperator("=")) {
        TANDEM_ASSIGN_OR_RETURN(preset, in_.Expression());
      }
      made->exprs.push_back(std::move(preset));
    }
    const int loops = std::exchange(loops_, 0);
    TANDEM_RETURN_IF_ERROR(Enclosed(made, "endmacro"));
    loops_ = loops;
    return absl::OkStatus();
  }

  ExpressionParser in_;
  int nesting_ = 0;
  int loops_ = 0;
};

}  // namespace

absl::StatusOr<Block> ParseTemplate(std::string_view source) {
  TANDEM_ASSIGN_OR_RETURN(std::vector<Token> tokens, LexTemplate(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace tandem::text
