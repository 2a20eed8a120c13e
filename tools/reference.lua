-- reference.lua: makes the reference manual from the doc comments of scripts/perigee/*.lua and bindings/*.c.
--   lua5.4 tools/reference.lua module    a Lua chunk of entries, embedded at build time as perigee.reference_data
--   lua5.4 tools/reference.lua manual    docs/reference.md
--
-- A doc comment begins with three dashes (in C, three slashes) and a signature as a user would type it:
--
--   --- pg.uniform(key, shape, { low = 0, high = 1 }), tensor:other() → tensor: What it does, in sentences.
--   -- Lines that follow go on; those indented by two blanks are items of a list, by four are code; an empty one ends a
--   -- paragraph.
--
-- Each name in a signature is an entry; `[, x]` is an argument that may be left out; the text begins behind the first
-- colon and blank outside brackets. A line that ends in a comma, an arrow or inside brackets goes on in the next one. A
-- doc comment above a function must have as many arguments as the function; it may also stand alone.

local function fail(at, format, ...)
  io.stderr:write(("%s:%d: %s\n"):format(at.file, at.line, format:format(...)))
  os.exit(1)
end

-- ---- signatures -----------------------------------------------------------------------------------------------------

-- Call visit(position, byte) for the characters of a text that are outside brackets and quotes; stop when it returns
-- true. → whether brackets and quotes are closed at the end
local function scan_outside(text, visit)
  local depth, quoted = 0, false
  for i = 1, #text do
    local c = text:sub(i, i)
    if c == '"' then quoted = not quoted end
    if not quoted then
      if c:match("[%(%[{]") then depth = depth + 1 end
      if depth == 0 and visit(i, c) then return true end
      if c:match("[%)%]}]") then depth = depth - 1 end
    end
  end
  return depth == 0 and not quoted
end

-- "signature: text" → signature, text ("" if there is none).
local function split_text(line)
  local at
  scan_outside(line, function(i, c)
    if c == ":" and line:sub(i + 1, i + 1):match("^%s?$") then at = i end
    return at ~= nil
  end)
  if not at then return line, "" end
  return line:sub(1, at - 1), line:sub(at + 1):match("^%s*(.-)$")
end

-- The parts of a text between commas outside brackets.
local function split_commas(text)
  local parts, from = {}, 1
  scan_outside(text, function(i, c)
    if c == "," then
      parts[#parts + 1] = text:sub(from, i - 1):match("^%s*(.-)%s*$")
      from = i + 1
    end
  end)
  parts[#parts + 1] = text:sub(from):match("^%s*(.-)%s*$")
  return parts
end

-- The names that a signature speaks of: "tensor:exp(), pg.exp(x) → tensor" → {"tensor:exp", "pg.exp"}.
local function names_of(signature)
  local command = signature:match("^perigee %l+") or signature:match("^perigee$")
  if command then return { command } end
  local names = {}
  for i, form in ipairs(split_commas((signature:gsub("%s*→.*$", "")))) do
    names[i] = form:match("^[%a_][%w_%.:]*[%w_]") or form:match("^%a")
  end
  return names
end

-- How many arguments a call in a signature takes, for comparison with the code; nil if it is not a call or variadic.
local function count_arguments(form)
  local inside = form:match("^[%w_%.:]+%s*%((.*)%)$")
  if form:match("^[%w_%.:]+%s*{.*}$") then return 1 end
  if not inside or inside:find("…", 1, true) or inside:find("...", 1, true) then return nil end
  inside = inside:gsub("%s*%[,?", ","):gsub("%]", ""):gsub("^,", "")
  return inside:match("^%s*$") and 0 or #split_commas(inside)
end

-- ---- texts ----------------------------------------------------------------------------------------------------------

-- Comment lines → blocks { kind = "text" | "item" | "code", text }. An item begins with an indentation of two blanks
-- and goes on in lines indented deeper.
local function blocks_of(lines)
  local blocks, last = {}, nil
  for _, line in ipairs(lines) do
    local indent, content = line:match("^(%s*)(.-)%s*$")
    if content == "" then
      last = nil
    elseif #indent >= 4 and not (last and last.kind == "item") then
      if not (last and last.kind == "code") then
        last = { kind = "code" }
        blocks[#blocks + 1] = last
      end
      last.text = (last.text and last.text .. "\n" or "") .. line:sub(5)
    elseif last and (#indent >= 4 or (#indent < 2 and last.kind == "text")) then
      last.text = last.text .. " " .. content
    else
      last = { kind = #indent >= 2 and "item" or "text", text = content }
      blocks[#blocks + 1] = last
    end
  end
  return blocks
end

-- Blocks as plain text: a line for each paragraph and each item.
local function plain_text(blocks)
  local out = {}
  for i, block in ipairs(blocks) do
    local before = blocks[i - 1]
    if before and not (block.kind == "item" and before.kind ~= "code") then out[#out + 1] = "" end
    local text = block.kind == "code" and "    " .. block.text:gsub("\n", "\n    ") or block.text
    out[#out + 1] = block.kind == "item" and "  " .. text or text
  end
  return table.concat(out, "\n")
end

-- ---- reading files --------------------------------------------------------------------------------------------------

local function read_lines(path)
  local lines = {}
  for line in io.lines(path) do lines[#lines + 1] = line end
  return lines
end

-- A signature must take as many arguments as the function below it.
local function check_parameters(entry, line)
  local mark, name, parameters = (line or ""):match("^function [%w_]+([%.:])([%w_]+)%((.-)%)")
  if not parameters or parameters:find("...", 1, true) then return end
  local in_code = parameters == "" and 0 or #split_commas(parameters)
  for _, form in ipairs(split_commas((entry.signature:gsub("%s*→.*$", "")))) do
    local own, written = form:match("^[%w_%.:]*[%.:]([%w_]+)"), count_arguments(form)
    if own == name and written then
      local takes_self = form:match("^[%w_]+:") and mark == "."
      if written + (takes_self and 1 or 0) ~= in_code then
        fail(entry, "%s is documented with %d arguments, the code has (%s)", form, written, parameters)
      end
    end
  end
end

-- The entries of a comment with signatures. lines: see read_comment. → the last entry
local function add_entries(file, lines, add)
  local entry, rest
  local function finish()
    if not entry then return end
    entry.blocks = blocks_of(rest)
    add(entry)
  end
  for i, line in ipairs(lines) do
    if line.signature then
      finish()
      local joined, k = line.text, i
      while (joined:match(",$") or joined:match("→$") or not scan_outside(joined, function() end)) and lines[k + 1] do
        k = k + 1
        joined, lines[k].taken = joined .. " " .. lines[k].text:match("^%s*(.-)$"), true
      end
      local signature, text = split_text(joined)
      entry, rest = { file = file, line = line.number, signature = signature }, { text }
    elseif not line.taken then
      rest[#rest + 1] = line.text
    end
  end
  finish()
  return entry
end

local LANGUAGES = {
  lua = { comment = "^%-%-", signature = "^%-%-%- (.*)$" }, c = { comment = "^//", signature = "^/// (.*)$" },
}

-- The comment that begins at line `first`: { text, number, signature = whether it is one } for each line, without
-- marks; whether there is a signature among them; the number of the line behind it.
local function read_comment(lines, first, language)
  local comment, has_signature, i = {}, false, first
  while lines[i] and lines[i]:find(language.comment) do
    local signature = lines[i]:match(language.signature)
    has_signature = has_signature or signature ~= nil
    comment[#comment + 1] = { text = signature or lines[i]:match("^..%s?(.-)$"), number = i,
      signature = signature ~= nil }
    i = i + 1
  end
  return comment, has_signature, i
end

-- All entries of one file.
local function read_file(path, add)
  local suffix = path:match("%.(%l+)$")
  local lines, i = read_lines(path), 1
  while lines[i] do
    local comment, has_signature, behind = read_comment(lines, i, LANGUAGES[suffix])
    if has_signature then
      local last = add_entries(path, comment, add)
      if suffix == "lua" then check_parameters(last, lines[behind]) end
    end
    i = math.max(behind, i + 1)
  end
end

-- Every entry of the sources, sorted by name. One name in two places is an error.
local function read_all()
  local entries, seen = {}, {}
  local function add(entry)
    entry.text = plain_text(entry.blocks)
    for _, name in ipairs(names_of(entry.signature)) do
      local other = seen[name]
      if other then fail(entry, "%s is documented in %s:%d too", name, other.file, other.line) end
      seen[name] = entry
      entries[#entries + 1] = { name = name, of = entry }
    end
  end
  local listing = assert(io.popen("ls scripts/perigee/*.lua bindings/*.c | LC_ALL=C sort"))
  for path in listing:lines() do read_file(path, add) end
  listing:close()
  table.sort(entries, function(a, b) return a.name < b.name end)
  return entries
end

-- ---- the module -----------------------------------------------------------------------------------------------------

local function print_module(entries)
  print("-- Written by tools/reference.lua from doc comments. Do not edit.\nreturn {")
  for _, entry in ipairs(entries) do
    local of = entry.of
    local row = ("{name=%q,signature=%q,file=%q,line=%d,text=%q},"):format(entry.name, of.signature, of.file, of.line,
      of.text)
    print((row:gsub("\\\n", "\\n")))
  end
  print("}")
end

-- ---- the manual -----------------------------------------------------------------------------------------------------

local INTRODUCTION = [[
# Reference

Made by `make reference` from the doc comments of the sources; at the prompt, `?name` shows the same text. Shapes stand
in square brackets, `→` says what comes back, `[, x]` is an argument that may be left out, `{ k = v }` shows options
with their defaults. Axes, indices and slices written in Lua count from 1, negative ones from the end; integers inside
tensors (labels, indices) count from 0.
]]

-- Title, what names belong there, in order; the first that fits takes a name.
local SECTIONS = {
  { "The command line", "^perigee" },
  { "Tensors", "^tensor[:.]" },
  { "Layouts", "^layout[:.]" },
  { "Functions of tensors", nil, "tensor" },
  { "Losses", nil, "loss" },
  { "Random numbers", nil, "keys" },
  { "Transforms of functions", nil, "transform" },
  { "Loops", nil, "loops" },
  { "Models", "^pg%.nn" }, { "Models: methods", "^model[:.(]" },
  { "Optimizers", "^pg%.optimizer" }, { "Optimizers: methods", "^optimizer:" },
  { "Families", "^pg%.family" }, { "Families: methods", "^family:" },
  { "Corrections", "^pg%.correction" }, { "Corrections: methods", "^correction:" },
  { "Rules", "^pg%.rule" }, { "Rules: methods", "^rule:" },
  { "Wrappers", "^pg%.wrapper" },
  { "Stages", "^pg%.stage" }, { "Ready-made optimizers", "^pg%.optim%." },
  { "Schedules and durations", "^pg%.schedule", "schedule" },
  { "Training", "^pg%.train$" }, { "Training: the result", "^result[:.]" },
  { "Runs", "^pg%.run$" }, { "Runs: the context", "^ctx[:.]" },
  { "Options of a recipe", "^pg%.options" },
  { "Data", "^pg%.data" }, { "Data: splits", "^split[:.]" },
  { "Samplers", "^pg%.sampler" }, { "Samplers: methods", "^sampler:" },
  { "Evaluators", "^pg%.evaluator" }, { "Evaluators: methods", "^evaluator:" },
  { "Predictions", "^pg%.predict" }, { "Metrics", "^pg%.metric" }, { "Probes", "^pg%.probe" },
  { "Minima", "^pg%.minimize" },
  { "Plots", "^pg%.plot" }, { "Tables", "^pg%.table" },
  { "The rest", "." },
}

local function section_of(entry)
  local file = entry.of.file:match("([^/]+)%.lua$")
  for i, section in ipairs(SECTIONS) do
    if section[2] and entry.name:find(section[2]) or section[3] and file == section[3] then return i end
  end
end

-- What Markdown would take for markup, outside of `code`.
local function escape(text)
  local out = {}
  for plain, code in (text .. "``"):gmatch("([^`]*)(`[^`]*`)") do
    out[#out + 1] = plain:gsub("[<%*]", "\\%0"):gsub("%](%()", "\\]%1") .. code
  end
  return (table.concat(out):gsub("``$", ""))
end

local function print_blocks(blocks)
  for i, block in ipairs(blocks) do
    local after_item = blocks[i - 1] and blocks[i - 1].kind == "item"
    if block.kind == "code" then
      print("\n```text\n" .. block.text .. "\n```")
    elseif block.kind == "item" then
      print((after_item and "" or "\n") .. "- " .. escape(block.text))
    else
      print("\n" .. escape(block.text))
    end
  end
end

-- An entry with several names stands where its first name belongs.
local function print_manual(entries)
  local by_section = {}
  for _, entry in ipairs(entries) do
    if names_of(entry.of.signature)[1] == entry.name then
      local i = section_of(entry)
      by_section[i] = by_section[i] or {}
      table.insert(by_section[i], entry)
    end
  end
  io.write(INTRODUCTION, "\n")
  for i, section in ipairs(SECTIONS) do
    local slug = section[1]:lower():gsub("[^%w%- ]", ""):gsub(" ", "-")
    if by_section[i] then print(("- [%s](#%s)"):format(section[1], slug)) end
  end
  for i, section in ipairs(SECTIONS) do
    if by_section[i] then print("\n## " .. section[1]) end
    for _, entry in ipairs(by_section[i] or {}) do
      local of = entry.of
      print(("\n### %s\n\n`%s` ([%s](../%s))"):format(entry.name, of.signature, of.file:match("[^/]+$"), of.file))
      print_blocks(of.blocks)
    end
  end
end

local actions = { module = print_module, manual = print_manual }
local action = actions[arg[1]]
if not action then
  io.stderr:write("usage: lua5.4 tools/reference.lua module | manual\n")
  os.exit(2)
end
action(read_all())
