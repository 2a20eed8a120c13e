-- complete.lua: what may stand at the cursor: variables and words of Lua, fields, methods, names within a vector, files
-- in quotes, commands of the prompt. Nothing of the user's is run: tables are read raw, metatables only where their
-- __index is a table, or by __names: a function in a metatable of the library that lists what its __index can give.

local core = require "perigee.core"
local lexer = require "perigee.lexer"
local terminal = require "perigee.terminal"

local data = core.data

local complete = {}

-- Methods of tensors that are for the library's own use.
local INTERNAL = { __index = true, data_write = true, copy_from = true, from_bytes = true, segment_set = true,
  fold_constant = true, signature = true, free = true }
local PROPERTIES = { "device", "dtype", "layout", "ndim", "shape", "size" }
local SOME_TENSOR = {} -- stands for a tensor that was not computed: theta["1.weight"], or the result of a call
local LONGEST_CHAIN = 20

local function is_tensor(value) return rawequal(value, SOME_TENSOR) or core.is_tensor(value) end

local function meta_field(value, name)
  local meta = debug.getmetatable(value)
  return type(meta) == "table" and rawget(meta, name) or nil
end

-- ---- reading values without running anything ------------------------------------------------------------------------

local function lists_name(value, name)
  local list = meta_field(value, "__names")
  for _, known in ipairs(list and list(value) or {}) do
    if known == name then return true end
  end
  return false
end

-- value[key], or nil.
function complete.get(value, key, depth)
  depth = depth or 0
  if value == nil or depth > LONGEST_CHAIN then return nil end
  if is_tensor(value) then
    if rawequal(value, SOME_TENSOR) then return core.methods[key] end
    if key == "layout" then return value.layout end
    if value.layout and type(key) == "string" and value.layout:find(key) then return SOME_TENSOR end
    return core.methods[key]
  end
  if type(value) == "table" then
    local own = rawget(value, key)
    if own ~= nil then return own end
    if lists_name(value, key) then return value[key] end
  end
  local index = meta_field(value, "__index")
  if type(index) ~= "table" then return nil end
  return complete.get(index, key, depth + 1)
end

-- Add to `found` the string keys that value[…] may have.
local function add_keys(value, found, depth)
  if depth > LONGEST_CHAIN then return end
  if type(value) == "table" then
    for key in next, value do
      if type(key) == "string" then found[key] = true end
    end
    local list = meta_field(value, "__names")
    for _, key in ipairs(list and list(value) or {}) do found[key] = true end
  end
  local index = meta_field(value, "__index")
  if type(index) == "table" then add_keys(index, found, depth + 1) end
end

local function is_callable(value)
  return type(value) == "function" or type(value) == "table" and meta_field(value, "__call") ~= nil
end

local function fields_of(value, methods_only)
  local found = {}
  if is_tensor(value) then
    if not methods_only then
      for _, name in ipairs(PROPERTIES) do found[name] = true end
    end
    for name in next, methods_only and core.methods or {} do found[name] = not INTERNAL[name] or nil end
    return found
  end
  if core.is_layout(value) then return methods_only and { find = true } or { size = true, padded = true } end
  add_keys(value, found, 0)
  for name in next, methods_only and found or {} do
    if not is_callable(complete.get(value, name)) then found[name] = nil end
  end
  return found
end

-- Names that an index in brackets and quotes may have.
local function index_names(value)
  local found = {}
  if is_tensor(value) then
    local layout = not rawequal(value, SOME_TENSOR) and value.layout
    for i = 1, layout and #layout or 0 do found[layout[i].name] = true end
  elseif type(value) == "table" then
    add_keys(value, found, 0)
  end
  return found
end

-- The value of a variable: the prompt's own, or Lua's.
local function variable(env, name)
  local own = complete.get(env, name)
  if own ~= nil then return own end
  return rawget(_G, name)
end

-- Whether the word is a variable of the user's.
function complete.is_own(env, name) return rawget(env, name) ~= nil end

-- ---- what stands before the cursor ----------------------------------------------------------------------------------

local function matching_open(tokens, i)
  local depth = 0
  for k = i, 1, -1 do
    local text = tokens[k].text
    if text == ")" or text == "]" or text == "}" then depth = depth + 1 end
    if text == "(" or text == "[" or text == "{" then depth = depth - 1 end
    if depth == 0 then return k end
  end
end

local function literal(token)
  if token.kind == "number" then return tonumber(token.text) end
  if token.kind == "string" and not token.open then return token.text:match("^[\"'](.*)[\"']$") end
end

-- The value of the expression that ends at tokens[i]: a chain like model.layers[1].weight; nil if it is not known. Of
-- the result of a call it is supposed that it is a tensor.
local function value_before(env, tokens, i)
  local token = tokens[i]
  if not token then return nil end
  local before = tokens[i - 1] and tokens[i - 1].text
  if token.kind == "name" then
    if before == "." then return complete.get(value_before(env, tokens, i - 2), token.text) end
    if before == ":" then return nil end
    return variable(env, token.text)
  elseif token.kind == "string" then
    return literal(token)
  elseif token.text == "]" then
    local open = matching_open(tokens, i)
    local key = open == i - 2 and literal(tokens[i - 1])
    local value = open and value_before(env, tokens, open - 1)
    if is_tensor(value) then return SOME_TENSOR end
    return key and complete.get(value, key) or nil
  elseif token.text == ")" and i > 2 and tokens[i - 1].kind == "string" and matching_open(tokens, i) == i - 2 then
    return literal(tokens[i - 1]) -- ("text"):rep, or a call with a string, which seldom gives a tensor
  elseif token.text == ")" or token.text == "}" then
    return SOME_TENSOR
  end
end

-- The value that text like "model.layout" or "x:sum" names, and the last name's owner; nothing is run.
function complete.resolve(env, text)
  local tokens = lexer.tokens(text)
  local last = tokens[#tokens]
  if last and last.kind == "name" and #tokens > 2 and tokens[#tokens - 1].text == ":" then
    local owner = value_before(env, tokens, #tokens - 2)
    return complete.get(owner, last.text), owner
  end
  local owner = #tokens > 2 and tokens[#tokens - 1].text == "." and value_before(env, tokens, #tokens - 2) or nil
  return value_before(env, tokens, #tokens), owner
end

-- ---- candidates -----------------------------------------------------------------------------------------------------

local function filter(found, partial, keep)
  local list = {}
  for name in next, found do
    local hidden = name:sub(1, 1) == "_" and partial:sub(1, 1) ~= "_"
    if name:sub(1, #partial) == partial and not hidden and (not keep or keep(name)) then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

local function is_identifier(name) return name:find("^[%a_][%w_]*$") and not lexer.keywords[name] end

-- Files whose path begins with `partial`; directories end in a slash. only: a pattern that names of files must have.
local function files(partial, only)
  local directory, base = partial:match("^(.*/)([^/]*)$")
  directory, base = directory or "", base or partial
  local home = os.getenv("HOME")
  local place = directory:gsub("^~/", (home or "~") .. "/")
  local ok, names = pcall(data.list, place == "" and "." or place)
  local list = {}
  for _, name in ipairs(ok and names or {}) do
    if name:sub(1, #base) == base and (name:sub(1, 1) ~= "." or base:sub(1, 1) == ".") then
      local stat = data.stat(place .. name)
      local is_directory = stat and stat.type == "directory"
      if is_directory then list[#list + 1] = directory .. name .. "/" end
      if not is_directory and (not only or name:find(only)) then list[#list + 1] = directory .. name end
    end
  end
  return list
end

local function globals(env, partial)
  local found = {}
  add_keys(env, found, 0)
  add_keys(_G, found, 0)
  for word in next, lexer.keywords do found[word] = true end
  return filter(found, partial, function(name) return name:find("^[%a_][%w_]*$") end)
end

-- Within quotes: names of an index, or files.
local function in_quotes(env, tokens, last)
  local quote, partial = last.text:match("^([\"'])(.*)$")
  if not quote then return "", {} end
  local before = tokens[#tokens - 1]
  if before and before.text == "[" and #tokens > 2 then
    local names = filter(index_names(value_before(env, tokens, #tokens - 2)), partial)
    return partial, names, quote .. "]"
  end
  return partial, files(partial), quote
end

local function in_code(env, text)
  local tokens = lexer.tokens(text)
  local last = tokens[#tokens]
  if last and last.open then return in_quotes(env, tokens, last) end
  local touches = last and last.last == #text
  local is_word = touches and (last.kind == "name" or last.kind == "keyword")
  local partial = is_word and last.text or ""
  local mark = tokens[#tokens - (is_word and 1 or 0)]
  if mark and (touches or not is_word) and (mark.text == "." or mark.text == ":") then
    local value = value_before(env, tokens, #tokens - (is_word and 2 or 1))
    return partial, filter(fields_of(value, mark.text == ":"), partial, is_identifier)
  end
  return partial, globals(env, partial)
end

-- What may replace the end of the text before the cursor: that end, the list of candidates (each begins with it), and
-- what follows if there is only one. env: the user's variables; commands: names behind "%".
function complete.candidates(env, text, commands)
  local partial = text:match("^%s*%%(%a*)$")
  if partial then
    local found = {}
    for _, name in ipairs(commands or {}) do found[name] = true end
    return partial, filter(found, partial), " "
  end
  partial = text:match("^%s*%%run%s+(%S*)$")
  if partial then return partial, files(partial, "%.lua$"), " " end
  return in_code(env, (text:gsub("^%s*%%%a+%s", ""):gsub("^%s*%?", "")))
end

-- ---- for the editor -------------------------------------------------------------------------------------------------

-- The longest beginning that all have in common, cut between characters.
local function common_prefix(list)
  local prefix = list[1]
  for _, name in ipairs(list) do
    while name:sub(1, #prefix) ~= prefix do prefix = prefix:sub(1, -2) end
  end
  local whole = #prefix == #list[1] or not list[1]:find("^[\x80-\xbf]", #prefix + 1)
  return whole and prefix or prefix:gsub("[\xc0-\xff][\x80-\xbf]*$", "")
end

local MOST_ROWS = 20

-- The last parts of the candidates in columns.
local function in_columns(list, width)
  local cells, widest = {}, 0
  for i, name in ipairs(list) do
    cells[i] = name:match("[^/]+/?$") or name
    widest = math.max(widest, utf8.len(cells[i]) or #cells[i])
  end
  local columns = math.max(1, width // (widest + 2))
  local rows = math.ceil(#cells / columns)
  local lines = {}
  for r = 1, math.min(rows, MOST_ROWS) do
    local line = {}
    for c = 0, columns - 1 do
      local cell = cells[c * rows + r]
      if cell then line[#line + 1] = cell .. (" "):rep(widest + 2 - (utf8.len(cell) or #cell)) end
    end
    lines[r] = table.concat(line):gsub("%s+$", "")
  end
  if rows > MOST_ROWS then lines[#lines + 1] = ("... %d in all"):format(#cells) end
  return table.concat(lines, "\n") .. "\n"
end

-- What Tab does: text to insert at the cursor, and text to show below, either may be nil.
function complete.at_cursor(env, text, commands)
  if not text:match("[^\n]*$"):find("%S") then return "  " end
  local partial, list, suffix = complete.candidates(env, text, commands)
  if #list == 0 then return nil end
  if #list == 1 then
    local is_directory = list[1]:sub(-1) == "/"
    return list[1]:sub(#partial + 1) .. (not is_directory and suffix or "")
  end
  local more = common_prefix(list):sub(#partial + 1)
  if more ~= "" then return more end
  return nil, in_columns(list, terminal.width())
end

return complete
