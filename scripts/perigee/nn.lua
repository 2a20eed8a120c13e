-- nn.lua: pg.nn: how modules are put together (sequential, modules of one's own), and the layers, initializers and
-- functions of models that nn_*.lua define. What a module is stands in nn_module.lua, how a model is
-- called in nn_call.lua.
--
-- Names of parameters are paths: "1.weight" in a sequential, where layers count from 1, "block1.conv.weight" in modules
-- with named children.

local core = require "perigee.core"
local module = require "perigee.nn_module"
local names = require "perigee.names"
require "perigee.nn_summary"

local nn = {}

for _, part in ipairs { "nn_layers", "nn_norm", "nn_residual", "nn_recalibrate", "nn_reparametrize", "metainit" } do
  for name, f in next, (require("perigee." .. part)) do nn[name] = f end
end

-- ---- composition ----

local MODULE = { "name", "parameters", "buffers", "children", "forward" }

--- pg.nn.module { name =, parameters =, buffers =, children =, forward = function(self, x, ctx) … end }: A module of
-- one's own: a model by itself, or a part of another. Its parts, each { NAME = … }, are fields of self in forward:
--
-- children are modules. self.NAME(x, ctx) calls one (ctx may be left out), and may do so more than once, which shares
-- its parameters. A list of modules counts them: self[1](x).
--
-- parameters are { shape…, init = }. self.NAME is the tensor, self.child.NAME a child's (to tie weights). init is a
-- number, one of pg.nn.init or a function (key, shape, dtype); without it, as pg.nn.linear's for two axes or more, else
-- zeros.
--
-- buffers, { shape…, init = number }, are numbers that training carries along without a gradient. self.NAME reads one;
-- assigning gives it a new value, which is kept while training (ctx.train) unless ctx.update_buffers is false. One
-- declared with running = true is a running average of statistics of batches: where ctx.momentum is given, new = (1 -
-- ctx.momentum) old + ctx.momentum batch, so that pg.nn.recalibrate can average it anew.
--
-- Where their order matters, these tables may be lists of { NAME, … }; else it is alphabetical. name: what messages and
-- summaries call the module.
--
-- forward is plain Lua over tensors, traced once; what comes out must depend on nothing else. ctx.train says whether
-- this is training; ctx.key is the module's own random key, another one for each place in the model and each call.
function nn.module(spec)
  names.check("pg.nn.module", spec, MODULE)
  if type(spec.forward) ~= "function" then core.raise("pg.nn.module needs a function forward(self, x, ctx)") end
  return module.new("pg.nn.module", {
    kind = spec.name or "module", parameters = spec.parameters, buffers = spec.buffers, children = spec.children,
    forward = spec.forward, watched = spec.forward,
  })
end

--- pg.nn.sequential { module, … }: Modules one after the other. An entry may be a module (a model, too), a function of
-- one tensor (pg.relu, function(x) … end), a list of such entries, or { NAME, module } for a name instead of the
-- number.
function nn.sequential(list)
  if type(list) ~= "table" or module.is(list) then
    core.raise(("pg.nn.sequential takes a list of modules, not %s"):format(names.describe(list)))
  end
  return module.sequential(list)
end

-- ---- what pg.nn shows ----

nn.init = require("perigee.nn_init").public
for name, f in next, nn.init do nn.init[name] = core.entry(f) end
names.guard(nn.init, "pg.nn.init")
for name, f in next, nn do
  if type(f) == "function" then
    nn[name] = core.entry(f)
    module.remember(nn[name], "pg.nn." .. name)
  end
end

return nn
