-- mistakes_language.lua: likely mistakes of a new user with tensors, names, Lua itself, keys and transforms: groups of
-- { title, recipe, what perigee says behind "perigee: recipe.lua:", code = exit code if not 1, pattern = whether what
-- it says is a pattern }. mistakes_spec.lua runs them.

return {
  { "tensors: shapes, dtypes, indices",
    { "shapes that do not broadcast", "print(pg.zeros({2, 3}) + pg.zeros({4}))",
      "1: add: shapes f32 [2, 3] and f32 [4] do not broadcast (axis 2: 3 against 4)" },
    { "matrices that do not fit", [[
local x = pg.zeros({64, 784})
print(x:matmul(pg.zeros({10, 784})))]],
      "2: matmul: [64, 784] and [10, 784] do not fit: 784 columns against 10 rows" },
    { "f32 with f64", 'print(pg.zeros({2}) + pg.zeros({2}, "f64"))',
      '1: add: f32 [2] and f64 [2] have different dtypes; convert one with :to("f64")' },
    { "whole numbers with floats", 'print(pg.zeros({2}, "i32") * pg.zeros({2}))',
      '1: mul: i32 [2] and f32 [2] have different dtypes; convert one with :to("f32")' },
    { "a fraction of whole numbers", 'print(pg.tensor({3, 4}, "i32") * 0.5)',
      '1: mul: i32 [2] holds whole numbers, and 0.5 is not one; convert the tensor with :to("f32")' },
    { "a quotient of whole numbers", 'print(pg.tensor({3, 4}, "i32") / 2)',
      '1: div: i32 [2] holds whole numbers, so / would cut off fractions; convert it with :to("f32")' },
    { "the mean of whole numbers", 'print(pg.tensor({3, 4}, "i32"):mean())',
      '1: mean: works on floating-point tensors, got i32 [2]; convert it with :to("f32")' },
    { "arithmetic on a mask", [[
local x = pg.ones({3})
print(x * x:gt(0))]],
      '2: mul: works on numeric tensors, got bool [3]; convert it with :to("f32")' },
    { "index 0", "print(pg.zeros({3})[0])",
      "1: index 0 is outside 1..3 on axis 1 of f32 [3]; indices count from 1" },
    { "an index beyond the end", "print(pg.zeros({3})[4])",
      "1: index 4 is outside 1..3 on axis 1 of f32 [3]" },
    { "a mask as an index", [[
local x = pg.arange(3)
print(x[x:gt(1)])]],
      "2: a mask is no index: pg.where(mask, a, b) chooses by it" },
    { "a slice with brackets", "print(pg.arange(5)[{2, 3}])",
      "1: an index is a number; x:slice({first, last}) takes a range, x:take({0, 2}) several entries" },
    { "a slice with plain numbers", "print(pg.arange(5):slice(2, 3))",
      "1: slice: 2 ranges for f32 [5]; one range is {first, last}" },
    { "axis 0", "print(pg.zeros({2, 3}):sum(0))",
      "1: sum: axis 0 is outside 1..2 of f32 [2, 3]" },
    { "an axis beyond the last", "print(pg.zeros({2, 3}):sum(3))",
      "1: sum: axis 3 is outside 1..2 of f32 [2, 3]" },
    { "an axis by name", "print(pg.zeros({2, 3}):mean({ dim = 1 }))",
      "1: mean: axes are a number or a list of them, as x:mean(1); the table has 'dim'" },
    { "a reshape that does not fit", "print(pg.zeros({2, 3}):reshape(4, 2))",
      "1: reshape: f32 [2, 3] has 6 elements, [4, 2] has 8" },
    { "an index out of range in take", "print(pg.arange(5):take({ 1, 5 }))",
      "1: take: index 5 is outside 0..4 on axis 1 of f32 [5]; integers inside tensors count from 0" },
    { "a label out of range in one_hot", 'print(pg.one_hot(pg.tensor({ 1, 2, 3 }, "i32"), 3))',
      "1: one_hot: label 3 is outside 0..2 of the classes; integers inside tensors count from 0" },
    { "ragged nested tables", "print(pg.tensor{{1, 2}, {3}})",
      "1: ragged nested tables: axis 2 has 2 entries at first, and elsewhere 1" },
    { "several numbers for pg.tensor", "print(pg.tensor(1, 2, 3))",
      "1: tensor: several numbers come in a table, as pg.tensor({1, 2})" },
    { "a shape as several arguments", "print(pg.zeros(2, 3))",
      "1: zeros: a shape is one table, as {2, 3}; a dtype or options may follow, not 3" },
    { "a dtype of NumPy's", 'print(pg.zeros({2}, "float64"))',
      '1: zeros: "float64" is not a dtype (f32, f64, i32, i64, u8, bool); did you mean "f64"?' },
    { "a misspelt option of zeros", 'print(pg.zeros({2}, { dtyp = "f64" }))',
      "1: unknown option 'dtyp' of pg.zeros; did you mean 'dtype'?" },
    { "a tensor and a string", 'print(pg.zeros({2}) + "1")',
      "1: add: operand 2 is a string; a tensor or a number was expected" },
    { "a tensor and nil", [[
local x = { w = pg.zeros({2}) }
print(x.w + x.b)]],
      "2: add: operand 2 is nil; a tensor or a number was expected" },
    { "a tensor and a table", "print(pg.zeros({2}) * {1, 2})",
      "1: mul: operand 2 is a table; a tensor or a number was expected; make one with pg.tensor" },
    { "concat without braces", [[
local x = pg.zeros({2})
print(pg.concat(x, x))]],
      "2: concat: a table of tensors was expected, as pg.concat({a, b}); got a tensor f32 [2]" },
    { "the remainder", "print(pg.arange(4) % 2)",
      "1: tensors have no %: the remainder is x - y * (x / y):floor()" },
    { "more memory than there is", "print(pg.zeros({ 100000, 100000, 100 }))",
      "1: out of memory: 3725.29 GiB of tensors on top of %d+%.%d+ exceed the limit of %d+%.%d+", pattern = true },
  },
  { "tensors: habits from PyTorch and NumPy",
    { "x.T", "print(pg.zeros({2, 3}).T)",
      "1: tensors have no method or property 'T'; did you mean x:t()?" },
    { "x.shape()", "print(pg.zeros({2, 3}).shape())",
      "1: attempt to call a table value (field 'shape'); x.shape is a property, written without brackets" },
    { "x:size(0)", "print(pg.zeros({2, 3}):size(0))",
      "1: attempt to call a number value (method 'size'); x.size is a property, written without brackets" },
    { "x.mean()", [[
local x = pg.zeros({2})
print(x.mean())]],
      "2: mean: operand 1 is nil; a tensor or a number was expected; methods take a colon, as x:sum()" },
    { "x:view(-1)", "print(pg.zeros({2, 3}):view(-1))",
      "1: view: f32 [2, 3] is not a vector, whose tensors it would give by name; for a new shape use x:reshape" },
    { "x:permute", "print(pg.zeros({2, 3}):permute(1, 0))",
      "1: tensors have no method or property 'permute'; did you mean x:transpose({2, 1})?" },
    { "x:backward()", [[
local loss = pg.zeros({2}):sum()
loss:backward()]],
      "2: tensors have no method or property 'backward'; did you mean pg.grad(f), the gradient of a function?" },
    { "x:numpy()", "print(pg.zeros({2}):numpy())",
      "1: tensors have no method or property 'numpy'; did you mean x:totable()?" },
    { "x:cuda()", "print(pg.zeros({2}):cuda())",
      "1: tensors have no method or property 'cuda'; did you mean x itself: this build computes on the cpu?" },
    { "a device that is not there", 'print(pg.zeros({2}):to("cuda"))',
      "1: to: no CUDA backend is in this build, so there is no device 'cuda'" },
    { "an assignment to an element", [[
local x = pg.zeros({2})
x[1] = 3]],
      "2: tensors are values: assigning to an element or field of one is not possible (use pg.where, "
        .. "scatter_add, or a new tensor)" },
    { "in-place arithmetic", [[
local x = pg.zeros({2})
x:add_(1)]],
      "2: tensors have no method or property 'add_'; did you mean x = x:add(…): tensors are values?" },
    { "the item of many elements", "print(pg.zeros({2}):item())",
      "1: item: f32 [2] has 2 elements, not one" },
    { "a tensor after if", [[
local x = pg.ones({3})
if x:sum():gt(5) then print "large" end]],
      "2: warning: a tensor counts as true after if and while, whatever is in it; :item() gives its "
        .. "value, pg.where chooses", code = 0 },
    { "a tensor against a number by ==", [[
local x = pg.ones({3})
while x:sum() ~= 3 do x = pg.ones({3}) break end]],
      "2: warning: a tensor never equals a number; compare its :item()", code = 0 },
    { "tensors compared by <", 'if pg.zeros({2}) < 1 then print "small" end',
      "1: tensors cannot be compared with < or <=: x:lt(y), x:le(y) give a mask for pg.where; a number is x:item()" },
    { "formatting a tensor", 'print(("loss %.3f"):format(pg.tensor(3)))',
      "1: bad argument #1 to 'format' (number expected, got tensor); the number in a tensor is x:item(), "
        .. "outside of traced functions" },
    { "math.exp of a tensor", "print(math.exp(pg.tensor(3)))",
      "1: bad argument #1 to 'exp' (number expected, got tensor); that is Lua's, for numbers; for "
        .. "tensors there is x:exp()" },
    { "numpy", "local x = np.zeros(3)",
      "1: there is no variable 'np'; did you mean pg?" },
    { "torch", 'local torch = require "torch"',
      "1: require: there is no file torch.lua; everything is in pg" },
    { "True and None", "local train = True",
      "1: there is no variable 'True'; did you mean true?" },
    { "range and len", "for i in range(3) do print(i) end",
      "1: there is no variable 'range'; did you mean for i = 1, n do … end?" },
    { "an f-string", [[
local loss = 3
print(f"loss {loss}")]],
      "2: there is no variable 'f'; did you mean (\"loss %.3f\"):format(loss)?" },
  },
  { "names and Lua",
    { "a misspelt variable", [[
local learning_rate = 0.1
local opt = pg.optim.sgd { lr = learning_rte }]],
      "2: there is no variable 'learning_rte'; did you mean learning_rate?" },
    { "an undefined option", [[
local o = pg.options { lr = 0.1 }
local opt = pg.optim.sgd { lr = o.learning_rate }]],
      "2: pg.options: there is no option learning_rate" },
    { "a misspelt function of pg", "print(pg.rnadn(pg.key(1), {2}))",
      "1: pg has no 'rnadn'; did you mean pg.randn?" },
    { "a layer with a capital", "print(pg.nn.Linear(2, 3))",
      "1: pg.nn has no 'Linear'; did you mean pg.nn.linear?" },
    { "an optimizer with a capital", "print(pg.optim.AdamW {})",
      "1: pg.optim has no 'AdamW'; did you mean pg.optim.adamw?" },
    { "an optimizer that is not there", "print(pg.optim.lbfgs {})",
      "1: pg.optim has no 'lbfgs'" },
    { "a function in the wrong module", "print(pg.adam { lr = 0.1 })",
      "1: pg has no 'adam'; did you mean pg.optim.adam?" },
    { "PyTorch's seed", "pg.manual_seed(1)",
      "1: pg has no 'manual_seed'; did you mean pg.key?" },
    { "math.random", "print(math.random())",
      "1: math.random does not repeat from run to run; draw from a key: pg.uniform(pg.key(1), {n})" },
    { "the shell", 'os.execute("ls")',
      "1: os.execute is kept from recipes, which run in a sandbox; --trust lifts it" },
    { "a file elsewhere", [[
local f = io.open("/etc/passwd")
print(f:read())]],
      "1: io.open: /etc/passwd: outside the data, recipe and run directories (--trust lifts this)" },
    { "writing beside the recipe", 'local f = io.open("out.txt", "w")',
      "1: io.open: out.txt: outside the run directory, the only one that recipes write in (--trust lifts this)" },
    { "a missing file", 'local f = require "utils"',
      "1: require: there is no file utils.lua" },
    { "!=", [[
local x = 3
if x != 3 then print(x) end]],
      "2: 'then' expected near '!'; \"not equal\" is ~=" },
    { "+=", [[
local x = 1
x += 1]],
      "2: syntax error near '+'; there is no += and the like; write x = x + 1" },
    { "a comment of Python's", "# a comment",
      "1: unexpected symbol near '#'; comments begin with --" },
    { "import", "import torch",
      "1: syntax error near 'torch'; everything is in pg; a file beside the recipe is had by require \"name\"" },
    { "a block of Python's", [[
for i in range(3):
  print(i)]],
      "2: 'do' expected near <eof>; blocks have no colon: for i = 1, n do … end, if x then … end" },
    { "= for equality", [[
local x = 1
if x = 1 then print(x) end]],
      "2: 'then' expected near '='; equality is ==" },
    { "a missing comma", [[
local o = {
  lr = 0.1
  epochs = 3,
}]],
      "3: '}' expected (to close '{' at line 1) near 'epochs'; is a comma missing before it?" },
    { "a missing end", [[
local function f(x)
  return x]],
      "2: 'end' expected (to close 'function' at line 1) near <eof>" },
    { "brackets for a list", "local m = pg.nn.sequential [ 1, 2 ]",
      "1: ']' expected near ','; lists are { 1, 2 }, with braces" },
  },
  { "keys and draws",
    { "a draw without a key", "print(pg.randn({2, 3}))",
      "1: randn: a key, as pg.key(1), was expected first; got a table" },
    { "a number for a key", "print(pg.randn(42, {2}))",
      "1: randn: a key, as pg.key(1), was expected first; got 42" },
    { "a shape as several arguments", "print(pg.randn(pg.key(1), 2, 3))",
      "1: randn: a shape is one table, as {2, 3}; a dtype or options may follow, not 3" },
    { "limits as arguments", "print(pg.uniform(pg.key(1), {3}, -1, 1))",
      "1: uniform: a shape is one table, as {2, 3}; a dtype or options may follow, not -1" },
    { "limits by other names", "print(pg.uniform(pg.key(1), {3}, { min = -1, max = 1 }))",
      "1: unknown option 'max' of pg.uniform; did you mean 'high'?" },
    { "a permutation of nothing", "print(pg.permutation(pg.key(1)))",
      "1: permutation: a whole number was expected, got nothing" },
    { "a dropout without its key", "print(pg.dropout(pg.ones({3}), 0.5, pg.key(1)))",
      "1: dropout: a key, as pg.key(1), was expected second; got 0.5" },
  },
  { "transforms",
    { "the gradient of many numbers", [[
local f = pg.grad(function(x) return x * 2 end)
print(f(pg.ones({3})))]],
      "2: grad: the loss must be a single number, of shape []; got f32 [3]: reduce it with :sum() or :mean()" },
    { "the gradient of nothing", [[
local f = pg.grad(function(x) local y = x:sum() end)
print(f(pg.ones({3})))]],
      "2: grad: the function must return a tensor computed from its arguments; it returned nothing" },
    { "the gradient of a tensor", [[
local x = pg.ones({3})
print(pg.grad(x:sum(), x))]],
      "2: grad: a function was expected, got a tensor f32 []" },
    { "the gradient by whole numbers", [[
local f = pg.grad(function(x) return x:sum() end)
print(f(pg.ones({3}, "i32")))]],
      "2: grad: argument 1 is i32 [3]; derivatives exist for f32 and f64 only" },
    { "an argument that is not there", [[
local f = pg.grad(function(x) return x:sum() end, { wrt = 2 })
print(f(pg.ones({3})))]],
      "2: grad: there is no argument 2 to differentiate by (1 were given)" },
    { "argnums", "local f = pg.grad(function(x, y) return (x * y):sum() end, { argnums = 1 })",
      "1: unknown option 'argnums' of pg.grad; did you mean 'wrt'?" },
    { "the item of a traced tensor", [[
local f = pg.jit(function(x)
  return x / x:sum():item()
end)
print(f(pg.ones({3})))]],
      "2: this tensor is traced: it stands for a value computed later and has no elements to read or write yet" },
    { "a branch on a traced number", [[
local f = pg.jit(function(x, n)
  if n < 3 then return x end
  return -x
end)
print(f(pg.ones({3}), 5))]],
      "2: a traced value cannot be compared with < or <=, for it is not known yet: x:lt(y), x:le(y) give "
        .. "a mask for pg.where" },
    { "a loop to a traced number", [[
local f = pg.jit(function(x, n)
  for _ = 1, n do x = x * 2 end
  return x
end)
print(f(pg.ones({3}), 5))]],
      "2: bad 'for' limit (number expected, got tensor); a traced function cannot count by a run-time "
        .. "number; capture a plain one, or use pg.scan" },
    { "a shape of a traced number", [[
local f = pg.jit(function(x, n) return x + pg.zeros({ n }) end)
print(f(pg.ones({3}), 3))]],
      "1: full: extent 1 of the shape is a tensor weak f64 [], not an integer (shapes are fixed when a "
        .. "function is traced)" },
    { "a tensor that escapes its trace", [[
local kept
pg.jit(function(x) kept = x; return x * 2 end)(pg.ones({3}))
print(kept + 1)]],
      "3: this tensor belongs to a trace that has ended; return it from the traced function" },
  },
}
