-- table.lua: aligned columns of text for terminals.

local text_table = {}

local function width_of(text) return utf8.len(text) or #text end

local function pad(text, width, right)
  local fill = (" "):rep(width - width_of(text))
  return right and fill .. text or text .. fill
end

--- pg.table.format(heads, rows[, left]) → string: Rows (lists of strings or numbers) under a list of heads, in columns.
-- A column whose cells are all numbers, or strings that begin like one, is aligned to the right, unless left[its
-- number] is true.
function text_table.format(heads, rows, left)
  local widths, right = {}, {}
  for c, head in ipairs(heads) do
    widths[c], right[c] = width_of(head), #rows > 0 and not (left and left[c])
    for _, row in ipairs(rows) do
      local cell = tostring(row[c] == nil and "" or row[c])
      widths[c] = math.max(widths[c], width_of(cell))
      if cell ~= "" and cell ~= "-" and not cell:match("^[+-]?%.?%d") then right[c] = false end
    end
  end
  local lines = {}
  local function add(cells)
    local out = {}
    for c in ipairs(heads) do
      out[c] = pad(tostring(cells[c] == nil and "" or cells[c]), widths[c], right[c])
    end
    lines[#lines + 1] = (table.concat(out, "  "):gsub("%s+$", ""))
  end
  add(heads)
  local rule = {}
  for c in ipairs(heads) do rule[c] = ("-"):rep(widths[c]) end
  add(rule)
  for _, row in ipairs(rows) do add(row) end
  return table.concat(lines, "\n") .. "\n"
end

--- pg.table.print(heads, rows): Print the text of pg.table.format.
function text_table.print(heads, rows) io.write(text_table.format(heads, rows)) end

--- pg.table.thousands(n) → string: A whole number with its digits in groups: 1234567 gives "1,234,567".
function text_table.thousands(n)
  local text = ("%d"):format(n)
  local sign, digits = text:match("^(-?)(%d+)$")
  digits = digits:reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", "")
  return sign .. digits
end

return text_table
