-- lexer.lua: Lua text cut into tokens, for the prompt: completion asks what stands before the cursor, and top-level
-- locals are found by it. It takes text that is unfinished or wrong as far as it makes sense; what is right Lua is the
-- compiler's to say.

local lexer = {}

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return then true
until while]]):gmatch("%a+") do KEYWORDS[word] = true end
lexer.keywords = KEYWORDS

local OPERATORS = { "^%.%.%.", "^%.%.", "^==", "^~=", "^<=", "^>=", "^//", "^::", "^<<", "^>>" }

local function end_of_long(text, at)
  local level = text:match("^%[(=*)%[", at)
  if not level then return nil end
  local _, last = text:find("]" .. level .. "]", at + #level + 2, true)
  return last or #text, last == nil
end

local function end_of_quoted(text, at)
  local quote, i = text:sub(at, at), at + 1
  while true do
    i = text:find("[\\\n" .. quote .. "]", i)
    local c = i and text:sub(i, i)
    if not i then return #text, true end
    if c == quote then return i, false end
    if c == "\n" then return i - 1, true end
    i = i + (text:find("^\\z", i) and select(2, text:find("^\\z%s*", i)) - i + 1 or 2)
  end
end

local function end_of_number(text, at)
  local _, last = text:find("^0[xX][%x%.]*", at)
  if not last then _, last = text:find("^[%d%.]*", at) end
  local _, exponent = text:find("^[eEpP][+-]?%d+", last + 1)
  return exponent or last
end

-- Last position of the token or comment at `at`, its kind, and whether it has no end. A comment has no kind.
local function scan(text, at)
  if text:find("^[%a_]", at) then
    local _, last = text:find("^[%w_]+", at)
    return last, KEYWORDS[text:sub(at, last)] and "keyword" or "name"
  elseif text:find("^%.?%d", at) then
    return end_of_number(text, at), "number"
  elseif text:find("^%-%-", at) then
    local last = end_of_long(text, at + 2)
    return last or (text:find("\n", at, true) or #text + 1) - 1
  elseif text:find("^[\"']", at) then
    local last, open = end_of_quoted(text, at)
    return last, "string", open
  end
  local last, open = end_of_long(text, at)
  if last then return last, "string", open end
  for _, pattern in ipairs(OPERATORS) do
    _, last = text:find(pattern, at)
    if last then return last, "operator" end
  end
  return at, "operator"
end

-- The tokens of `text`: { kind = "name", "keyword", "number", "string" or "operator", text =, first =, last =
-- (positions in the text), open = true for a string without an end }. Comments are left out.
function lexer.tokens(text)
  local tokens, at = {}, text:find("%S")
  while at do
    local last, kind, open = scan(text, at)
    if kind then
      tokens[#tokens + 1] = { kind = kind, text = text:sub(at, last), first = at, last = last, open = open }
    end
    at = text:find("%S", last + 1)
  end
  return tokens
end

return lexer
