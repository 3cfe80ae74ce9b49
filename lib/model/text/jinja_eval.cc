#include "lib/model/text/jinja_eval.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/model/text/jinja_library.h"

namespace tandem::text {
namespace {

// Nested evaluations take C++ stack, about 1 KB each without a sanitizer; a macro calling itself
// ends here.
constexpr int kDepthMax = 600;
// A list in a list in a list ...; printing and freeing it recurses.
constexpr int kValueDepthMax = 150;

enum class Flow { kNext, kBreak, kContinue };
using Scope = absl::flat_hash_map<std::string, Value>;

class Evaluator {
 public:
  Evaluator(const Dict& context, const RenderLimits& limits)
      : context_(context), limits_(limits), budget_(limits.steps_max, limits.output_bytes_max) {
    scopes_.emplace_back();
  }

  absl::StatusOr<std::string> Run(const Block& body) {
    TANDEM_RETURN_IF_ERROR(Exec(body).status());
    return std::move(out_);
  }

 private:
  struct DepthGuard {
    explicit DepthGuard(int* d) : depth(d) { ++*depth; }
    ~DepthGuard() { --*depth; }
    int* depth;
  };

  // Puts the template's line before a message that has none yet.
  static absl::Status AtLine(const absl::Status& status, int line) {
    constexpr char kHead[] = "chat template line ";
    if (absl::StartsWith(status.message(), kHead)) return status;
    return absl::Status(status.code(), absl::StrCat(kHead, line, ": ", status.message()));
  }

  // ---- statements

  absl::StatusOr<Flow> Exec(const Block& block) {
    const DepthGuard guard(&depth_);
    if (depth_ > kDepthMax) return TemplateError("evaluation is nested too deep");
    for (const auto& statement : block) {
      TANDEM_RETURN_IF_ERROR(budget_.Charge(1));
      absl::StatusOr<Flow> flow = ExecOne(*statement);
      if (!flow.ok()) return AtLine(flow.status(), statement->line);
      if (*flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  absl::StatusOr<Flow> ExecOne(const Stmt& s) {
    switch (s.kind) {
      case StmtKind::kText:
        return Done(Write(s.name));
      case StmtKind::kOutput:
        return Done(Output(*s.exprs[0]));
      case StmtKind::kIf:
        return If(s);
      case StmtKind::kFor:
        return Done(For(s));
      case StmtKind::kSet:
        return Done(Set(s));
      case StmtKind::kSetBlock:
        return Done(SetBlock(s));
      case StmtKind::kMacro:
        scopes_.back()[s.name] = Value(Macro{&s});
        return Flow::kNext;
      case StmtKind::kPlain:
        return Exec(s.blocks[0]);
      case StmtKind::kBreak:
        return Flow::kBreak;
      case StmtKind::kContinue:
        return Flow::kContinue;
    }
    return TemplateError("unknown statement");
  }

  static absl::StatusOr<Flow> Done(const absl::Status& status) {
    if (!status.ok()) return status;
    return Flow::kNext;
  }

  absl::Status Write(std::string_view text) {
    if (text.size() > limits_.output_bytes_max - out_.size()) {
      return absl::ResourceExhaustedError(
          absl::StrCat("chat template writes more than ", limits_.output_bytes_max, " bytes"));
    }
    out_ += text;
    return budget_.ChargeBytes(text.size());
  }

  absl::Status Output(const Expr& expr) {
    TANDEM_ASSIGN_OR_RETURN(const Value value, Eval(expr));
    TANDEM_ASSIGN_OR_RETURN(const std::string text, TextOf(value, &budget_));
    return Write(text);
  }

  absl::StatusOr<Flow> If(const Stmt& s) {
    for (size_t i = 0; i < s.exprs.size(); ++i) {
      TANDEM_ASSIGN_OR_RETURN(const Value test, Eval(*s.exprs[i]));
      if (Truthy(test)) return Exec(s.blocks[i]);
    }
    if (s.blocks.size() > s.exprs.size()) return Exec(s.blocks.back());
    return Flow::kNext;
  }

  // Gives `names` the value, or, when there are several, its items.
  absl::Status Bind(const std::vector<std::string>& names, const Value& value) {
    if (names.size() == 1) return Assign(names[0], value);
    TANDEM_ASSIGN_OR_RETURN(const auto items, Iterate(value, &budget_));
    if (items->items.size() != names.size()) {
      return TemplateError(absl::StrCat("expected ", names.size(), " values to unpack, found ",
                                        items->items.size()));
    }
    for (size_t i = 0; i < names.size(); ++i)
      TANDEM_RETURN_IF_ERROR(Assign(names[i], items->items[i]));
    return absl::OkStatus();
  }

  absl::Status Assign(const std::string& name, const Value& value) {
    const size_t dot = name.find('.');
    if (dot == std::string::npos) {
      scopes_.back()[name] = value;
      return absl::OkStatus();
    }
    const Value target = Lookup(name.substr(0, dot));
    if (!target.Is<std::shared_ptr<Namespace>>())
      return TemplateError("cannot assign attribute on non-namespace object");
    // A namespace inside a namespace could hold itself and never be freed.
    if (MeasureOf(value).has_namespace)
      return TemplateError("a namespace inside a namespace is not supported");
    std::get<std::shared_ptr<Namespace>>(target.data())->attributes[name.substr(dot + 1)] = value;
    return absl::OkStatus();
  }

  absl::Status Set(const Stmt& s) {
    TANDEM_ASSIGN_OR_RETURN(const Value value, Eval(*s.exprs[0]));
    return Bind(s.names, value);
  }

  // The text a block writes, instead of writing it.
  absl::StatusOr<std::string> Captured(const Block& block) {
    std::string outer = std::exchange(out_, "");
    const absl::StatusOr<Flow> flow = Exec(block);
    std::string made = std::exchange(out_, std::move(outer));
    if (!flow.ok()) return flow.status();
    return made;
  }

  absl::Status SetBlock(const Stmt& s) {
    scopes_.emplace_back();
    absl::StatusOr<std::string> text = Captured(s.blocks[0]);
    scopes_.pop_back();
    if (!text.ok()) return text.status();
    return Assign(s.names[0], Value(*std::move(text)));
  }

  absl::StatusOr<std::shared_ptr<const List>> LoopItems(const Stmt& s) {
    TANDEM_ASSIGN_OR_RETURN(const Value iterable, Eval(*s.exprs[0]));
    TANDEM_ASSIGN_OR_RETURN(std::shared_ptr<const List> items, Iterate(iterable, &budget_));
    if (s.exprs[1] == nullptr) return items;
    List kept;
    for (const Value& item : items->items) {
      scopes_.emplace_back();
      absl::Status bound = Bind(s.names, item);
      absl::StatusOr<Value> test = bound.ok() ? Eval(*s.exprs[1]) : bound;
      scopes_.pop_back();
      if (!test.ok()) return test.status();
      if (Truthy(*test)) kept.items.push_back(item);
    }
    return MakeList(std::move(kept));
  }

  absl::Status For(const Stmt& s) {
    TANDEM_ASSIGN_OR_RETURN(const std::shared_ptr<const List> items, LoopItems(s));
    if (items->items.empty()) {
      if (s.blocks.size() < 2) return absl::OkStatus();
      scopes_.emplace_back();
      const absl::StatusOr<Flow> flow = Exec(s.blocks[1]);
      scopes_.pop_back();
      return flow.status();
    }
    for (size_t i = 0; i < items->items.size(); ++i) {
      TANDEM_RETURN_IF_ERROR(budget_.Charge(4));
      scopes_.emplace_back();  // what a turn sets is gone in the next one
      const absl::StatusOr<Flow> flow = Turn(s, items, i);
      scopes_.pop_back();
      if (!flow.ok()) return flow.status();
      if (*flow == Flow::kBreak) break;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Flow> Turn(const Stmt& s, const std::shared_ptr<const List>& items,
                            size_t index0) {
    scopes_.back()["loop"] = Value(std::make_shared<const Loop>(Loop{items, index0, 0}));
    TANDEM_RETURN_IF_ERROR(Bind(s.names, items->items[index0]));
    return Exec(s.blocks[0]);
  }

  // ---- expressions

  Value Lookup(const std::string& name) const {
    for (size_t i = scopes_.size(); i-- > 0;) {
      const auto it = scopes_[i].find(name);
      if (it != scopes_[i].end()) return it->second;
    }
    const Value* found = context_.Find(name);
    if (found != nullptr) return *found;
    if (IsGlobalFunction(name)) return Value(Function{name, nullptr});
    return Value(Undefined{absl::StrCat("'", name, "' is undefined")});
  }

  absl::StatusOr<Value> Eval(const Expr& e) {
    const DepthGuard guard(&depth_);
    if (depth_ > kDepthMax) return TemplateError("evaluation is nested too deep");
    TANDEM_RETURN_IF_ERROR(budget_.Charge(1));
    absl::StatusOr<Value> value = EvalOne(e);
    if (!value.ok()) return AtLine(value.status(), e.line);
    if (MeasureOf(*value).depth > kValueDepthMax)
      return AtLine(TemplateError("value is nested too deep"), e.line);
    return value;
  }

  absl::StatusOr<Value> EvalOne(const Expr& e) {
    switch (e.kind) {
      case ExprKind::kConst:
        return e.constant;
      case ExprKind::kName:
        return Lookup(e.name);
      case ExprKind::kList:
        return ListOf(e, false);
      case ExprKind::kTuple:
        return ListOf(e, true);
      case ExprKind::kDict:
        return DictOf(e);
      case ExprKind::kNegate:
      case ExprKind::kPlus:
        return Sign(e);
      case ExprKind::kNot:
        return Not(e);
      case ExprKind::kBinary:
        return Binary(e);
      case ExprKind::kAnd:
      case ExprKind::kOr:
        return Logic(e);
      case ExprKind::kConcat:
        return Concat(e);
      case ExprKind::kCompare:
        return Compare(e);
      case ExprKind::kCond:
        return Cond(e);
      case ExprKind::kAttr:
        return Attr(e);
      case ExprKind::kItem:
        return Item(e);
      case ExprKind::kSlice:
        return SliceOf(e);
      case ExprKind::kCall:
        return Call(e);
      case ExprKind::kFilter:
        return Filter(e);
      case ExprKind::kTest:
        return Test(e);
    }
    return TemplateError("unknown expression");
  }

  absl::StatusOr<Value> ListOf(const Expr& e, bool is_tuple) {
    List list{{}, is_tuple};
    for (const ExprPtr& kid : e.kids) {
      TANDEM_ASSIGN_OR_RETURN(Value item, Eval(*kid));
      list.items.push_back(std::move(item));
    }
    return Value(std::move(list));
  }

  absl::StatusOr<Value> DictOf(const Expr& e) {
    Dict dict;
    for (size_t i = 0; i + 1 < e.kids.size(); i += 2) {
      TANDEM_ASSIGN_OR_RETURN(const Value key, Eval(*e.kids[i]));
      TANDEM_ASSIGN_OR_RETURN(Value value, Eval(*e.kids[i + 1]));
      if (!dict.Set(key, std::move(value))) {
        return TemplateError(
            absl::StrCat("a ", base::ToAbsl(TypeName(key)), " cannot be a key of a dict"));
      }
    }
    return Value(std::move(dict));
  }

  absl::StatusOr<Value> Sign(const Expr& e) {
    TANDEM_ASSIGN_OR_RETURN(const Value v, Eval(*e.kids[0]));
    if (v.IsUndefined()) return TemplateError(v.undefined().what);
    if (!v.IsNumber()) return TemplateError("a sign needs a number");
    if (v.Is<double>()) return Value(e.kind == ExprKind::kNegate ? -v.number() : v.number());
    return Arithmetic(e.kind == ExprKind::kNegate ? "-" : "+", Value(int64_t{0}), v, &budget_);
  }

  absl::StatusOr<Value> Not(const Expr& e) {
    TANDEM_ASSIGN_OR_RETURN(const Value v, Eval(*e.kids[0]));
    return Value(!Truthy(v));
  }

  absl::StatusOr<Value> Binary(const Expr& e) {
    TANDEM_ASSIGN_OR_RETURN(const Value a, Eval(*e.kids[0]));
    TANDEM_ASSIGN_OR_RETURN(const Value b, Eval(*e.kids[1]));
    return Arithmetic(e.name, a, b, &budget_);
  }

  absl::StatusOr<Value> Logic(const Expr& e) {
    TANDEM_ASSIGN_OR_RETURN(Value a, Eval(*e.kids[0]));
    if (Truthy(a) == (e.kind == ExprKind::kOr)) return a;
    return Eval(*e.kids[1]);
  }

  absl::StatusOr<Value> Concat(const Expr& e) {
    std::string text;
    for (const ExprPtr& kid : e.kids) {
      TANDEM_ASSIGN_OR_RETURN(const Value v, Eval(*kid));
      TANDEM_ASSIGN_OR_RETURN(const std::string part, TextOf(v, &budget_));
      text += part;
      TANDEM_RETURN_IF_ERROR(budget_.ChargeBytes(text.size()));
    }
    return Value(std::move(text));
  }

  absl::StatusOr<Value> Compare(const Expr& e) {
    TANDEM_ASSIGN_OR_RETURN(Value left, Eval(*e.kids[0]));
    for (size_t i = 0; i < e.names.size(); ++i) {
      TANDEM_ASSIGN_OR_RETURN(Value right, Eval(*e.kids[i + 1]));
      TANDEM_RETURN_IF_ERROR(budget_.ChargeWalk(left));
      TANDEM_RETURN_IF_ERROR(budget_.ChargeWalk(right));
      TANDEM_ASSIGN_OR_RETURN(const bool holds, CompareValues(e.names[i], left, right));
      if (!holds) return Value(false);
      left = std::move(right);
    }
    return Value(true);
  }

  absl::StatusOr<Value> Cond(const Expr& e) {
    TANDEM_ASSIGN_OR_RETURN(const Value test, Eval(*e.kids[1]));
    if (Truthy(test)) return Eval(*e.kids[0]);
    if (e.kids[2] != nullptr) return Eval(*e.kids[2]);
    return Value(Undefined{"the inline if-expression was false and has no else"});
  }

  absl::StatusOr<Value> Attr(const Expr& e) {
    TANDEM_ASSIGN_OR_RETURN(const Value object, Eval(*e.kids[0]));
    return GetAttribute(object, e.name);
  }

  absl::StatusOr<Value> Item(const Expr& e) {
    TANDEM_ASSIGN_OR_RETURN(const Value object, Eval(*e.kids[0]));
    TANDEM_ASSIGN_OR_RETURN(const Value key, Eval(*e.kids[1]));
    if (object.IsString()) TANDEM_RETURN_IF_ERROR(budget_.ChargeBytes(object.str().size()));
    return GetItem(object, key);
  }

  absl::StatusOr<Value> SliceOf(const Expr& e) {
    TANDEM_ASSIGN_OR_RETURN(const Value object, Eval(*e.kids[0]));
    Value bounds[3];
    for (size_t i = 0; i < 3; ++i) {
      if (e.kids[i + 1] == nullptr) continue;
      TANDEM_ASSIGN_OR_RETURN(bounds[i], Eval(*e.kids[i + 1]));
    }
    const auto bound = [&](size_t i) { return e.kids[i + 1] == nullptr ? nullptr : &bounds[i]; };
    return Slice(object, bound(0), bound(1), bound(2), &budget_);
  }

  // The arguments of a call, filter or test: kids[1..], the last of them named.
  absl::StatusOr<CallArgs> Args(const Expr& e) {
    CallArgs args;
    const size_t first_named = e.kids.size() - e.names.size();
    for (size_t i = 1; i < e.kids.size(); ++i) {
      TANDEM_ASSIGN_OR_RETURN(Value value, Eval(*e.kids[i]));
      if (i < first_named) {
        args.positional.push_back(std::move(value));
      } else {
        args.named.emplace_back(e.names[i - first_named], std::move(value));
      }
    }
    return args;
  }

  absl::StatusOr<Value> Call(const Expr& e) {
    TANDEM_ASSIGN_OR_RETURN(const Value callee, Eval(*e.kids[0]));
    if (callee.IsUndefined()) return TemplateError(callee.undefined().what);
    TANDEM_ASSIGN_OR_RETURN(const CallArgs args, Args(e));
    if (callee.Is<Macro>()) return CallMacro(*std::get<Macro>(callee.data()).definition, args);
    if (!callee.Is<Function>()) {
      return TemplateError(
          absl::StrCat("'", base::ToAbsl(TypeName(callee)), "' object is not callable"));
    }
    const Function& function = std::get<Function>(callee.data());
    if (function.self != nullptr) return CallMethod(*function.self, function.name, args, &budget_);
    if (function.name == "namespace") {
      for (const auto& [key, value] : args.named) {
        if (MeasureOf(value).has_namespace)
          return TemplateError("a namespace inside a namespace is not supported");
      }
    }
    return CallGlobal(function.name, args, &budget_);
  }

  // A macro sees its arguments and the template's outermost names.
  absl::StatusOr<Value> CallMacro(const Stmt& macro, const CallArgs& args) {
    if (args.positional.size() > macro.names.size()) {
      return TemplateError(absl::StrCat("macro '", macro.name, "' takes not more than ",
                                        macro.names.size(), " arguments"));
    }
    for (const auto& [name, value] : args.named) {
      if (std::find(macro.names.begin(), macro.names.end(), name) == macro.names.end()) {
        return TemplateError(
            absl::StrCat("macro '", macro.name, "' takes no keyword argument '", name, "'"));
      }
    }
    std::vector<Scope> outer = std::move(scopes_);
    scopes_.clear();
    scopes_.push_back(outer.front());
    scopes_.emplace_back();
    absl::Status status;
    for (size_t i = 0; i < macro.names.size() && status.ok(); ++i) {
      status = BindParameter(macro, i, args);
    }
    absl::StatusOr<std::string> text = status.ok() ? Captured(macro.blocks[0]) : status;
    scopes_ = std::move(outer);
    if (!text.ok()) return text.status();
    return Value(*std::move(text));
  }

  absl::Status BindParameter(const Stmt& macro, size_t i, const CallArgs& args) {
    const Value* given = args.Get(i, macro.names[i]);
    Value value(Undefined{absl::StrCat("parameter '", macro.names[i], "' was not provided")});
    if (given != nullptr) {
      value = *given;
    } else if (macro.exprs[i] != nullptr) {
      TANDEM_ASSIGN_OR_RETURN(value, Eval(*macro.exprs[i]));
    }
    scopes_.back()[macro.names[i]] = std::move(value);
    return absl::OkStatus();
  }

  absl::StatusOr<Value> Filter(const Expr& e) {
    TANDEM_ASSIGN_OR_RETURN(const Value self, Eval(*e.kids[0]));
    TANDEM_ASSIGN_OR_RETURN(const CallArgs args, Args(e));
    return ApplyFilter(e.name, self, args, &budget_);
  }

  absl::StatusOr<Value> Test(const Expr& e) {
    TANDEM_ASSIGN_OR_RETURN(const Value self, Eval(*e.kids[0]));
    TANDEM_ASSIGN_OR_RETURN(const CallArgs args, Args(e));
    if (!args.positional.empty()) {
      TANDEM_RETURN_IF_ERROR(budget_.ChargeWalk(self));
      TANDEM_RETURN_IF_ERROR(budget_.ChargeWalk(args.positional[0]));
    }
    TANDEM_ASSIGN_OR_RETURN(const bool holds, ApplyTest(e.name, self, args));
    return Value(holds);
  }

  const Dict& context_;
  const RenderLimits& limits_;
  Budget budget_;
  std::vector<Scope> scopes_;  // outermost first
  std::string out_;
  int depth_ = 0;
};

}  // namespace

absl::StatusOr<std::string> RenderBlock(const Block& body, const Dict& context,
                                        const RenderLimits& limits) {
  return Evaluator(context, limits).Run(body);
}

}  // namespace tandem::text
