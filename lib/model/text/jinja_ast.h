// The parsed form of a chat template.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lib/model/text/jinja_value.h"

namespace tandem::text {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

enum class ExprKind {
  kConst,    // constant
  kName,     // name
  kList,     // kids
  kTuple,    // kids
  kDict,     // kids: key, value, key, value, ...
  kNegate,   // kids[0]
  kPlus,     // kids[0]
  kNot,      // kids[0]
  kBinary,   // name: the operator; kids[0], kids[1]
  kAnd,      // kids[0], kids[1]
  kOr,       // kids[0], kids[1]
  kConcat,   // kids, joined as text
  kCompare,  // kids[0] names[0] kids[1] names[1] kids[2] ...; names: == != < <= > >= in notin
  kCond,     // kids: value, test, else value or null
  kAttr,     // kids[0].name
  kItem,     // kids[0][kids[1]]
  kSlice,    // kids: object, start, stop, step; the last three may be null
  kCall,     // kids[0](kids[1..], names = kwargs)
  kFilter,   // kids[0] | name(kids[1..], names = kwargs)
  kTest,     // kids[0] is name(kids[1..])
};

// For calls, filters: the last names.size() kids are the keyword arguments, in the order of names.
struct Expr {
  ExprKind kind;
  int line = 0;
  int depth =
      1;  // of the tree below, bounded by the parser so that walking it cannot exhaust the stack
  std::string name;
  std::vector<std::string> names;
  std::vector<ExprPtr> kids;
  Value constant;
};

struct Stmt;
using Block = std::vector<std::unique_ptr<Stmt>>;

enum class StmtKind {
  kText,      // name: the text
  kOutput,    // exprs[0]
  kIf,        // exprs[i] guards blocks[i]; one more block is the else
  kFor,       // names: targets; exprs: iterable, filter or null; blocks: body, else
  kSet,       // names: targets ("ns.attr" with a dot sets an attribute of a namespace); exprs[0]
  kSetBlock,  // names[0], blocks[0]
  kMacro,     // name; names: parameters; exprs: defaults or null; blocks[0]
  kPlain,     // blocks[0], as if the tag were not there ({% generation %})
  kBreak,
  kContinue,
};

struct Stmt {
  StmtKind kind;
  int line = 0;
  std::string name;
  std::vector<std::string> names;
  std::vector<ExprPtr> exprs;
  std::vector<Block> blocks;
};

}  // namespace tandem::text
