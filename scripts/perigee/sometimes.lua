-- sometimes.lua: work that a program does in some of its runs only, as its numbers say: every tenth step, or the first.
-- A choice by `where` would do the work each time and throw it away.

local loops = require "perigee.loops"

local function is_due(carry) return carry.due:gt(0) end

-- f(x) where the mask, of shape [], holds, else x: a table of tensors, for which f gives one alike. Traced; without a
-- derivative in reverse mode.
return function(mask, f, x)
  local carry = { due = mask:to("f32"), x = x }
  return loops.while_loop(is_due, function(c) return { due = c.due * 0, x = f(c.x) } end, carry).x
end
