-- data.lua: data sets by name or path, and splits: what examples are made of and how a batch of them is assembled.
-- Owns the known names and the mapping of labels; where files are looked for is said in data_paths.lua, parsing and
-- gathering are the engine's.
--
--   pg.data.load("fashion-mnist")            → { name, n, train, test }     IDX: x [n,1,28,28] scaled by 1/255, y i32
--   pg.data.load("a9a", { bias = true })     → split                        LIBSVM: x [n,d], y by opts.labels
--   pg.data.load("table.csv", { target = "price" }), pg.data.load("x.npy")  → split
--   pg.data.from { x = tensor, y = tensor }  → split
--
-- A split has n, a field per column group (split.x is the tensor as
-- it is stored), and
--   split:batch(indices, dst, dtype)         → { x =, y =, id = }: rows by 0-based index, float fields in dtype (f32)
--   split:staging(count, dtype), split:fill(batch, order, first, count)     the same without allocation, for samplers
--   split:all(dtype)  split:rows(a, b) (1-based, inclusive)  split:take(n)  split:select(indices)  split:folds(k, key)
--   split:hash()

local core = require "perigee.core"
local data_paths = require "perigee.data_paths"
local names = require "perigee.names"
local files, sorted = core.data, names.sorted

local data = { directories = data_paths.directories }

local function fail(format, ...) core.raise(format:format(...)) end

-- Keys are checked, so that a mistyped option is not ignored in silence.
local function check_options(what, opts, known)
  if type(opts) ~= "table" then fail("%s: options are a table, not %s", what, names.describe(opts)) end
  for _, name in ipairs(sorted(opts)) do
    if name == "split" or name == "train" then fail("%s: its splits are data.train and data.test", what) end
    if not known[name] then fail("%s", names.unknown("option", name, what, sorted(known))) end
  end
  return opts
end

-- ---- splits ---------------------------------------------------------------------------------------------------------

local Split = {}
local methods = {}
Split.__name = "perigee.split"

-- What a split may lack.
local MAY_LACK = { digest = true, titles = true }

-- split.x is field x as it is stored: a tensor or a sparse matrix.
function Split.__index(split, name)
  local method = methods[name]
  if method then return method end
  local field = rawget(split, "by_name")[name]
  if field or MAY_LACK[name] then return field and field.source end
  if type(name) ~= "string" then fail("a split has no index; split:rows(1, 10) takes examples, split.x is a field") end
  local known = sorted(rawget(split, "by_name"))
  local meant = names.meant(name, table.move(sorted(methods), 1, #sorted(methods), #known + 1, { table.unpack(known) }))
  return fail("%s has no field '%s'%s", split.name, name, meant and ("; did you mean '%s'?"):format(meant)
    or (" (it has: %s)"):format(table.concat(known, ", ")))
end

function Split.__call()
  fail("a split is no iterator; pg.train takes its batches by itself, a loop of pg.run by ctx:batch(split, 64)")
end

local function extent(field)
  return files.is_sparse(field.source) and { field.source.rows, field.source.columns } or field.source.shape
end

local function row_shape(field)
  return field.shape or table.move(extent(field), 2, #extent(field), 1, {})
end

-- A field with a scale becomes a float; floats take the batch's dtype; integers stay what they are.
local function staged_dtype(field, dtype)
  if field.scale or files.is_sparse(field.source) then return dtype end
  local own = field.as or field.source.dtype
  return (own == "f32" or own == "f64") and dtype or own
end

local function make_ids(n) return core.apply("iota", { a = { n }, b = { 0 }, dtype = "i64" }) end

-- Names that a split, or what a sampler adds to a batch, has already.
local RESERVED = { id = true, n = true, name = true, sample_weight = true, count = true, expected = true }

-- fields: list of { name =, source = tensor or sparse matrix, shape = of a row (default: as stored), scale =, shift =,
-- as = dtype in batches (default: as stored) }.
local function new_split(name, fields, ids)
  if #fields == 0 then fail("a split has at least one field") end
  local n, by_name = extent(fields[1])[1], {}
  for _, field in ipairs(fields) do
    if methods[field.name] or RESERVED[field.name] then
      fail("a field cannot be called '%s'", field.name)
    end
    local rows = extent(field)[1]
    if rows ~= n then fail("field %s has %d rows, field %s has %d", field.name, rows, fields[1].name, n) end
    by_name[field.name] = field
  end
  if n == 0 then fail("data set %s has no examples", name) end
  return setmetatable({ name = name, n = n, fields = fields, by_name = by_name, ids = ids or make_ids(n) }, Split)
end

local function with_rows(count, shape)
  return table.move(shape, 1, #shape, 2, { count })
end

--- split:staging(count [, dtype = "f32"]) → batch: Tensors for batches of `count` examples, to be filled by split:fill
-- again and again. dtype: of float fields.
function methods:staging(count, dtype)
  dtype = dtype or "f32"
  local batch = { id = core.tensor("i64", { count }) }
  for _, field in ipairs(self.fields) do
    batch[field.name] = core.tensor(staged_dtype(field, dtype), with_rows(count, row_shape(field)))
  end
  return batch
end

--- split:fill(batch, order, first, count) → batch: Fill a batch of split:staging with the examples order[first] …
-- order[first + count - 1], first from 0; order: i64 tensor of row numbers from 0.
function methods:fill(batch, order, first, count)
  files.gather(self.ids, order, batch.id, 1, 0, first, count)
  for _, field in ipairs(self.fields) do
    files.gather(field.source, order, batch[field.name], field.scale or 1, field.shift or 0, first, count)
  end
  return batch
end

--- split:batch(indices [, dst [, dtype = "f32"]]) → { x =, y =, id = }: The examples of these 0-based indices (a list
-- or an integer tensor), in `dst` (from an earlier call) or in new tensors. Float fields come in dtype.
function methods:batch(indices, dst, dtype)
  if type(indices) ~= "table" and not core.is_tensor(indices) then
    fail("split:batch takes a list of indices from 0, as {0, 1, 2}, not %s", names.describe(indices))
  end
  local count = type(indices) == "table" and #indices or indices.shape[1]
  return self:fill(dst or self:staging(count, dtype), indices, 0, count)
end

--- split:all([dtype = "f32"]) → { x =, y =, id = }: All examples as one batch.
function methods:all(dtype) return self:fill(self:staging(self.n, dtype), make_ids(self.n), 0, self.n) end

-- A split of some of another's examples. take(source) → the same rows of a tensor or sparse matrix.
local function part_of(split, name, take)
  local fields = {}
  for i, field in ipairs(split.fields) do
    local part = {}
    for _, key in ipairs(sorted(field)) do part[key] = field[key] end
    part.shape, part.source = row_shape(field), take(field.source)
    fields[i] = part
  end
  return new_split(name, fields, take(split.ids))
end

--- split:rows(a [, b]) → split: The examples a … b, counted from 1, from the end if negative; b: default the last.
function methods:rows(a, b)
  local n = self.n
  if math.type(a) ~= "integer" or b ~= nil and math.type(b) ~= "integer" then
    fail("split:rows takes the first and the last row, as (1, %d), not (%s, %s)", n, names.describe(a),
      names.describe(b))
  end
  local first, last = a < 0 and n + a + 1 or a, (b or n) < 0 and n + b + 1 or b or n
  if first < 1 or last > n or first > last then
    fail("split:rows(%s, %s): rows count from 1 to %d", tostring(a), tostring(b), n)
  end
  return part_of(self, ("%s[%d:%d]"):format(self.name, first, last), function(source)
    return files.rows(source, first - 1, last)
  end)
end

--- split:take(n) → split: The first n examples.
function methods:take(n)
  if math.type(n) ~= "integer" or n < 1 or n > self.n then
    fail("split:take takes a number of examples from 1 to %d, not %s", self.n, names.describe(n))
  end
  return self:rows(1, n)
end

--- split:select(indices) → split: The examples of these 0-based indices (a list or an i64 tensor), in this order; a
-- copy. They keep their ids. Not of sparse matrices.
function methods:select(indices)
  local count = type(indices) == "table" and #indices or core.is_tensor(indices) and indices.shape[1]
  if not count or count < 1 then
    fail("split:select takes a list of indices from 0, as {0, 1, 2}, not %s", names.describe(indices))
  end
  return part_of(self, ("%s, %d chosen"):format(self.name, count), function(source)
    if files.is_sparse(source) then fail("%s: split:select cannot choose rows of a sparse matrix", self.name) end
    local shape = table.move(source.shape, 2, source.ndim, 2, { count })
    local chosen = core.tensor(source.dtype, shape)
    files.gather(source, indices, chosen)
    return chosen
  end)
end

--- split:folds(k, key) → list: For cross-validation: k tables { train =, test = } of splits. The examples are cut, in
-- an order drawn from the key, into k pieces whose sizes differ by one at most; each is the test of one fold, and the
-- others, in that order, its train.
function methods:folds(k, key)
  if math.type(k) ~= "integer" or k < 2 or k > self.n then
    fail("split:folds takes a number of folds from 2 to %d, not %s", self.n, names.describe(k))
  elseif not core.is_tensor(key) or key.dtype ~= "key" then
    fail("split:folds needs a key behind the number of folds, as pg.key(1), not %s", names.describe(key))
  end
  local order = core.apply("permutation", { a = { self.n } }, key)
  local list = {}
  for fold = 1, k do
    local first, last, inside, outside = (fold - 1) * self.n // k, fold * self.n // k, {}, {}
    for i = 0, self.n - 1 do
      local piece = i >= first and i < last and outside or inside
      piece[#piece + 1] = order:data_read(i)
    end
    list[fold] = { train = self:select(inside), test = self:select(outside) }
  end
  return list
end

--- split:hash() → string: 16 hexadecimal digits that name the content: fields, shapes, dtypes, scales and every byte.
function methods:hash()
  if not self.digest then
    local parts = {}
    for _, field in ipairs(self.fields) do
      local kind = files.is_sparse(field.source) and "sparse" or field.source.dtype
      parts[#parts + 1] = ("%s %s %s %.17g %.17g\n"):format(field.name, kind,
        table.concat(with_rows(self.n, row_shape(field)), "x"), field.scale or 1, field.shift or 0)
      parts[#parts + 1] = field.source
    end
    self.digest = files.sha256(table.unpack(parts)):sub(1, 16)
  end
  return self.digest
end

local function describe_field(field)
  local kind = files.is_sparse(field.source) and "sparse" or field.source.dtype
  local text = ("%s %s [%s]"):format(field.name, kind, table.concat(row_shape(field), ","))
  return field.scale and ("%s * %.6g"):format(text, field.scale) or text
end

function Split:__tostring()
  local parts = {}
  for i, field in ipairs(self.fields) do parts[i] = describe_field(field) end
  return ("%s: %d examples of %s"):format(self.name, self.n, table.concat(parts, ", "))
end

--- pg.data.from(tensors [, { name = "data", scale = {}, shift = {} }]) → split: A split over tensors at hand, as
-- pg.data.from { x = tensor, y = tensor }, with one example for each entry of the first axis.
--   scale, shift: for fields that become floats in a batch, as scale = { x = 1 / 255 }: scale x + shift.
function data.from(tensors, opts)
  opts = check_options("pg.data.from", opts or {}, { name = true, scale = true, shift = true })
  local fields = {}
  if type(tensors) ~= "table" then
    fail("pg.data.from takes tensors by name, as { x = images, y = labels }, not %s", names.describe(tensors))
  end
  for i, name in ipairs(sorted(tensors)) do
    local source = tensors[name]
    if not core.is_tensor(source) and not files.is_sparse(source) then
      fail("pg.data.from: %s must be a tensor (pg.tensor makes one), not %s", name, names.describe(source))
    end
    local scale, shift = (opts.scale or {})[name], (opts.shift or {})[name]
    fields[i] = { name = name, source = source, scale = scale or shift and 1, shift = shift }
  end
  return new_split(opts.name or "data", fields)
end

-- ---- data sets ------------------------------------------------------------------------------------------------------

local Dataset = {}
Dataset.__name = "perigee.dataset"

function Dataset.__index(dataset, name)
  if Dataset[name] then return Dataset[name] end
  return fail("%s has no '%s'; its splits are train and test (train:rows(1, 1000) cuts one)", dataset.name,
    tostring(name))
end

function Dataset:hash() return files.sha256(self.train:hash(), self.test:hash()):sub(1, 16) end

function Dataset:__tostring() return ("%s\n  train %s\n  test  %s"):format(self.name, self.train, self.test) end

local function new_dataset(name, train, test)
  return setmetatable({ name = name, n = train.n, train = train, test = test }, Dataset)
end

-- ---- IDX directories ------------------------------------------------------------------------------------------------

local IDX = {
  train = { x = "train-images-idx3-ubyte", y = "train-labels-idx1-ubyte" },
  test = { x = "t10k-images-idx3-ubyte", y = "t10k-labels-idx1-ubyte" },
}

local function load_idx_split(name, directory, members, flat)
  local paths = {}
  for _, field in ipairs { "x", "y" } do
    paths[field] = data_paths.find_file(directory .. "/" .. members[field])
    if not paths[field] then fail("%s: no %s, plain or compressed", directory, members[field]) end
  end
  local images, labels = files.read_idx(paths.x), files.read_idx(paths.y)
  if #images.shape ~= 3 or images.dtype ~= "u8" or #labels.shape ~= 1 or labels.dtype ~= "u8" then
    fail("%s: expected u8 images [n, height, width] and u8 labels [n]", directory)
  end
  local height, width = images.shape[2], images.shape[3]
  return new_split(name, {
    { name = "x", source = images, shape = flat and { height * width } or { 1, height, width }, scale = 1 / 255 },
    { name = "y", source = labels, as = "i32" },
  })
end

local function load_idx(name, directory, opts)
  check_options(name, opts, { flat = true })
  return new_dataset(name, load_idx_split(name .. "/train", directory, IDX.train, opts.flat),
    load_idx_split(name .. "/test", directory, IDX.test, opts.flat))
end

-- ---- CIFAR directories (the binary version) -------------------------------------------------------------------------

local PIXELS = 3 * 32 * 32

-- Records of a label and the pixels; the batch files that are there, one after another.
local function load_cifar_split(name, paths, flat)
  local parts, pixels = {}, {}
  for i, path in ipairs(paths) do parts[i] = files.read_bytes(path, PIXELS + 1) end
  for i = 1, PIXELS do pixels[i] = i end
  local records = files.join_rows(parts)
  local shape = flat and { PIXELS } or { 3, 32, 32 }
  return new_split(name, {
    { name = "x", source = files.columns(records, pixels), shape = shape, scale = 1 / 255 },
    { name = "y", source = files.columns(records, { 0 }), shape = {}, as = "i32" },
  })
end

local function load_cifar(name, directory, opts)
  check_options(name, opts, { flat = true })
  local train = {}
  for i = 1, 5 do
    train[#train + 1] = data_paths.find_file(("%s/data_batch_%d.bin"):format(directory, i))
  end
  local test = data_paths.find_file(directory .. "/test_batch.bin")
  if not test then fail("%s: no test_batch.bin, plain or compressed", directory) end
  return new_dataset(name, load_cifar_split(name .. "/train", train, opts.flat),
    load_cifar_split(name .. "/test", { test }, opts.flat))
end

-- ---- labels ---------------------------------------------------------------------------------------------------------

-- The distinct values of a one-dimensional float tensor in rising order; nil if there are more than `most`.
local function distinct(y, n, most)
  local seen, values = {}, {}
  for i = 0, n - 1 do
    local value = y:data_read(i)
    if not seen[value] then
      seen[value] = true
      values[#values + 1] = value
      if #values > most then return nil end
    end
  end
  table.sort(values)
  return values
end

local MOST_CLASSES = 1000
local PAIRS = { pm1 = { -1, 1 }, ["01"] = { 0, 1 } }

local function are_integers(values)
  for _, value in ipairs(values) do
    if value % 1 ~= 0 then return false end
  end
  return true
end

local function choose_labels(values)
  if values and #values == 2 then return "01" end
  return values and #values > 2 and are_integers(values) and "classes" or "raw"
end

-- y with its values renamed: "pm1" and "01" map the smaller of two values to -1 or 0 and the larger to 1 (f64),
-- "classes" numbers the values from 0 in rising order (i32), "raw" leaves them. nil: "01" for two values, "classes"
-- for more whole numbers, else "raw".
local function map_labels(name, y, mode, values)
  if mode == "raw" then return y end
  local n = y.shape[1]
  values = values or distinct(y, n, MOST_CLASSES)
  mode = mode or choose_labels(values)
  if mode == "raw" then return y end
  local pair = PAIRS[mode]
  if not pair and mode ~= "classes" then fail("labels is \"01\", \"pm1\", \"classes\" or \"raw\", not \"%s\"", mode) end
  if not values or pair and #values ~= 2 then
    fail("%s: labels = \"%s\" needs two distinct labels, found %s", name, mode, values and #values or "more than 1000")
  end
  local number, flat = {}, {}
  for i, value in ipairs(values) do number[value] = pair and pair[i] or i - 1 end
  for i = 1, n do
    flat[i] = number[y:data_read(i - 1)]
    if not flat[i] then fail("%s: label %g does not occur in the training part", name, y:data_read(i - 1)) end
  end
  return core.tensor(pair and "f64" or "i32", { n }, flat), values
end

-- ---- LIBSVM ---------------------------------------------------------------------------------------------------------

local LIBSVM_OPTIONS = {
  dtype = true, dims = true, bias = true, dense = true, dense_limit = true, labels = true, test = true,
}

local function load_libsvm(name, path, opts, dims, values)
  local x, y = files.read_libsvm(path, { dtype = opts.dtype or "f64", dims = dims or opts.dims, bias = opts.bias,
    dense = opts.dense, dense_limit = opts.dense_limit })
  local mapped, found = map_labels(name, y, opts.labels, values)
  return new_split(name, { { name = "x", source = x }, { name = "y", source = mapped } }), found
end

local function columns_of(split, opts) return extent(split.by_name.x)[2] - (opts.bias and 1 or 0) end

-- NAME and NAME.t as train and test, both as wide as the wider one.
local function load_libsvm_pair(name, path, opts)
  local test_path = data_paths.find_file(path:gsub("%.[xg]z$", "") .. ".t")
  if not test_path then fail("%s: test = true, but there is no %s.t beside it", path, name) end
  local train, values = load_libsvm(name .. "/train", path, opts)
  local test = load_libsvm(name .. "/test", test_path, opts, nil, values)
  local wide, other = columns_of(train, opts), columns_of(test, opts)
  if wide < other then train = load_libsvm(name .. "/train", path, opts, other) end
  if other < wide then test = load_libsvm(name .. "/test", test_path, opts, wide, values) end
  return new_dataset(name, train, test)
end

local function load_libsvm_file(name, path, opts)
  check_options(name, opts, LIBSVM_OPTIONS)
  if opts.test then return load_libsvm_pair(name, path, opts) end
  return (load_libsvm(name, path, opts))
end

-- ---- CSV and npy ----------------------------------------------------------------------------------------------------

local CSV_OPTIONS = { dtype = true, delimiter = true, header = true, skip = true, target = true, labels = true }

-- The 1-based column that `target` means: a header's name, or a number, negative from the end.
local function find_column(path, target, titles, width)
  local column = target
  if type(target) == "string" then
    for i, title in ipairs(titles or {}) do
      if title == target then column = i end
    end
  elseif target < 0 then
    column = width + target + 1
  end
  if math.type(column) ~= "integer" or column < 1 or column > width then
    fail("%s: no column %s; there are %s", path, tostring(target), titles and table.concat(titles, ", ") or width)
  end
  return column
end

local function load_csv(name, path, opts)
  check_options(name, opts, CSV_OPTIONS)
  local whole, titles = files.read_csv(path, { dtype = opts.dtype or "f64", delimiter = opts.delimiter,
    header = opts.header, skip = opts.skip })
  if not opts.target then return new_split(name, { { name = "x", source = whole } }) end
  local n, width = whole.shape[1], whole.shape[2]
  if width < 2 then fail("%s: one column cannot be both x and target", path) end
  local column = find_column(path, opts.target, titles, width)
  local others = {}
  for i = 1, width do
    if i ~= column then others[#others + 1] = i - 1 end
  end
  local y = core.tensor("f64", { n })
  files.gather(files.columns(whole, { column - 1 }), make_ids(n), y)
  local split = new_split(name, {
    { name = "x", source = files.columns(whole, others) },
    { name = "y", source = (map_labels(name, y, opts.labels or "raw")) },
  })
  split.titles = titles
  return split
end

local function load_npy(name, path, opts)
  check_options(name, opts, { y = true, scale = true })
  local fields = { { name = "x", source = files.read_npy(path), scale = opts.scale } }
  if opts.y then
    local labels = data_paths.find_file(opts.y)
    if not labels then fail("%s: no such file", opts.y) end
    fields[2] = { name = "y", source = files.read_npy(labels) }
  end
  return new_split(name, fields)
end

-- ---- load -----------------------------------------------------------------------------------------------------------

local BY_EXTENSION = { { "%.csv$", load_csv }, { "%.npy$", load_npy } }

local DIRECTORIES = { { IDX.train.x, load_idx }, { "data_batch_1.bin", load_cifar } }

-- How to load what `path` is, if it is anything: a loader and the path as it lies there.
local function recognize(path)
  for _, row in ipairs(DIRECTORIES) do
    local directory = data_paths.find_directory(path, row[1])
    if directory then return row[2], directory end
  end
  local found = data_paths.find_file(path)
  if not found then return nil end
  local plain = found:gsub("%.[xg]z$", "")
  for _, row in ipairs(BY_EXTENSION) do
    if plain:find(row[1]) then return row[2], found end
  end
  return load_libsvm_file, found
end

local HINTS = {
  ["fashion-mnist"] = "apt-get install dataset-fashion-mnist",
}

-- Names of data sets that lie in the directories searched, and of those that a package has.
local function known_names(roots)
  local known = sorted(HINTS)
  for _, root in ipairs(roots) do
    for _, below in ipairs { "", "libsvm/" } do
      local directory = root .. below == "" and "." or root .. below
      local readable = files.exists(directory) and data_paths.may_read(directory)
      for _, entry in ipairs(readable and files.list(directory) or {}) do
        known[#known + 1] = (entry:gsub("%.[xg]z$", ""))
      end
    end
  end
  return known
end

local function fail_not_found(name, roots)
  local near = not HINTS[name] and names.meant(name, known_names(roots))
  if near then fail('data set "%s" was not found; did you mean "%s"?', name, near) end
  local places = {}
  for i, root in ipairs(roots) do
    places[i] = root .. name
    local allowed, message = data_paths.may_read(places[i])
    if not allowed and files.exists(places[i]) then fail("%s", message) end
  end
  fail("data set \"%s\" was not found%s; looked for %s, there and in libsvm/ (PERIGEE_DATA lists more directories, "
    .. "separated by colons)", name, HINTS[name] and ": " .. HINTS[name] or "", table.concat(places, ", "))
end

-- What look(path) says of the first path that it knows among those which `name` may stand for; else an error. beside:
-- the recipe's directory.
local function search(owner, name, beside, look)
  if type(name) ~= "string" then fail("%s takes the name or path of a data set, not a %s", owner, type(name)) end
  local roots = data_paths.search_path(name, beside)
  for _, root in ipairs(roots) do
    for _, below in ipairs { "", "libsvm/" } do
      local found, path = look(root .. below .. name)
      if found then return found, path end
    end
  end
  return fail_not_found(name, roots)
end

--- pg.data.load(name [, opts]) → data set or split: A data set by name, as "fashion-mnist", or by path; files may be
-- compressed (.gz, .xz). It is looked for beside the recipe and in pg.data.directories().
--   IDX and CIFAR directories: { name, n, train, test }, splits of x f32 [n, channels, height, width] scaled by 1 / 255
--     and y i32 [n]. flat = true: rows of pixels.
--   LIBSVM: a split of x [n, d] and y [n]. dtype = "f64"; dims: the number of columns; bias = true: a last column of
--     ones; test = true: NAME and NAME.t as a data set of train and test; dense, dense_limit: when to store it densely;
--     labels = "01", "pm1" (the smaller of two values becomes 0 or -1, the larger 1), "classes" (numbered from 0, i32)
--     or "raw"; by default "01" for two values, "classes" for more whole numbers, else "raw".
--   .csv: a split of x and, with target (a column's name or number), y. dtype = "f64", delimiter, header, skip, labels.
--   .npy: a split of x. y: the path of the labels; scale.
-- A split has n, the fields as they are stored (split.x) and the methods split:batch and so on. An unknown option or a
-- bad file is an error that names it.
function data.load(name, opts)
  local loader, found = search("pg.data.load", name, data_paths.directory_of_caller(), recognize)
  return loader(name, found, opts or {})
end

--- pg.data.text(name) → string: The whole text of a file, by name or path, looked for as pg.data.load does;
-- decompressed (.gz, .xz).
function data.text(name)
  return files.read_file((search("pg.data.text", name, data_paths.directory_of_caller(), data_paths.find_file)))
end

return data
