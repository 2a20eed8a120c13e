-- prompt_source.lua: from what is typed at the prompt to a chunk: an expression or a statement, whole or unfinished;
-- with a `;` behind it or not; and what makes the `local` variables of a chunk outlive it, which in plain Lua are gone
-- with the line that declares them.

local lexer = require "perigee.lexer"

local source = {}

local OPENS = { ["function"] = true, ["if"] = true, ["do"] = true, ["repeat"] = true } -- for and while have a do
local CLOSES = { ["end"] = true, ["until"] = true }

-- Add the names of the declaration behind tokens[i] = local. A variable that is <close>d is gone with the chunk.
local function add_names(tokens, i, names)
  local function at(k) return tokens[k] and tokens[k].text end
  if at(i + 1) == "function" then
    names[#names + 1] = at(i + 2)
    return
  end
  repeat
    i = i + 1
    local token, attribute = tokens[i], nil
    if at(i + 1) == "<" then
      attribute = at(i + 2)
      i = i + 3
    end
    if token and token.kind == "name" and attribute ~= "close" then names[#names + 1] = token.text end
    i = i + 1
  until at(i) ~= ","
end

-- The names of the variables that a chunk declares local outside of any block, and where its last statement begins if
-- that is a `return` (nil if not).
local function find_locals(text)
  local tokens, depth, names = lexer.tokens(text), 0, {}
  for i, token in ipairs(tokens) do
    if token.kind == "keyword" then
      if OPENS[token.text] then depth = depth + 1 end
      if CLOSES[token.text] then depth = depth - 1 end
      if depth == 0 and token.text == "local" then add_names(tokens, i, names) end
      if depth == 0 and token.text == "return" then return names, token.first end
    end
  end
  return names, nil
end

-- The chunk's text with a call of its first argument put in at its end, with a table of its top-level locals; and the
-- list of their names. Lines keep their numbers.
function source.keep_locals(text)
  local names, before = find_locals(text)
  if #names == 0 then return text, names end
  local fields = {}
  for i, name in ipairs(names) do fields[i] = name .. " = " .. name end
  local call = (";(...){ %s }"):format(table.concat(fields, ", "))
  if before then return text:sub(1, before - 1) .. call .. " " .. text:sub(before), names end
  return text .. "\n" .. call, names
end

-- Compile what was typed, its first line having number `line`, as the expression it may be, else as a statement.
-- → { chunk =, is_expression =, names = (locals that the chunk hands to its first argument), quiet = (ends in ";") };
-- or nil, the message, and whether more lines may make it whole.
function source.compile(text, line, env)
  local padding = ("\n"):rep(line - 1)
  local function compile(code) return load(padding .. code, "=stdin", "t", env) end
  local tokens = lexer.tokens(text)
  local quiet = #tokens > 0 and tokens[#tokens].text == ";"
  local chunk, message = compile("return " .. text)
  if chunk then return { chunk = chunk, is_expression = true, names = {}, quiet = quiet } end
  -- "x +" is wrong as a statement, but an expression that may go on.
  local unfinished = message:find("<eof>$") and message
  chunk, message = compile(text)
  if chunk then
    local kept, names = source.keep_locals(text)
    return { chunk = compile(kept) or chunk, names = names, quiet = quiet }
  end
  unfinished = message:find("<eof>$") and message or unfinished
  return nil, unfinished or message, unfinished ~= nil
end

return source
