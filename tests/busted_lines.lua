-- busted_lines.lua: an output handler for busted that prints what the C tests print: one line per test, `ok - name`,
-- `not ok - name (where: why)` or `skip - name # reason`.
local busted = require "busted"
local base = require "busted.outputHandlers.base"

local function one_line(text) return (tostring(text):gsub("%s*\n%s*", " | ")) end

-- Where and why of a failure or an error.
local function reason(entry)
  local trace = entry.trace or entry.element and entry.element.trace or {}
  local message = entry.message
  if message ~= nil and type(message) ~= "string" then message = require("pl.pretty").write(message) end
  message = one_line(message or "nil error")
  local where = ("%s:%s: "):format(trace.short_src or "?", trace.currentline or "?")
  return message:sub(1, #where) == where and message or where .. message
end

return function()
  local handler = base()

  function handler.test_end(element, _, status)
    local name = one_line(handler.getFullName(element))
    if status == "success" then
      io.write("ok - ", name, "\n")
    elseif status == "pending" then
      local entry = handler.pendings[#handler.pendings]
      io.write("skip - ", name, " # ", one_line(entry and entry.message or "pending"), "\n")
    else
      local list = status == "failure" and handler.failures or handler.errors
      io.write("not ok - ", name, " (", reason(list[#list]), ")\n")
    end
    io.flush()
    return nil, true
  end

  -- What goes wrong outside a test: a file that does not load, a failing setup.
  function handler.error_outside(element)
    if element.descriptor ~= "it" then
      local entry = handler.errors[#handler.errors]
      io.write("not ok - ", one_line(element.name or element.descriptor), " (", reason(entry), ")\n")
      io.flush()
    end
    return nil, true
  end

  busted.subscribe({ "test", "end" }, handler.test_end, { predicate = handler.cancelOnPending })
  busted.subscribe({ "error" }, handler.error_outside)
  return handler
end
