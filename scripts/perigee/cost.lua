-- cost.lua: the cost meter of a run: gradient evaluations per example (one forward and one backward pass of one
-- example at one parameter point), split by what they were for; apart from them, forward-only evaluations and
-- Hessian-vector products. Nothing is estimated: every program that runs adds what it evaluated.

local cost = {}

local Cost = {}
Cost.__index = Cost
Cost.__name = "perigee.cost"

-- Gradients for updates; for full or mega-batch passes; for measurements. Forward: evaluations without a gradient.
-- Products: of a Hessian with a vector, which families with exact Hessians take.
local PURPOSES = { "steps", "passes", "probes", "forward", "products" }

function cost.new()
  return setmetatable({ steps = 0, passes = 0, probes = 0, forward = 0, products = 0 }, Cost)
end

-- Book `examples` evaluations for one of "steps", "passes", "probes" (gradients), "forward" or "products".
function Cost:add(purpose, examples)
  self[purpose] = self[purpose] + examples
end

-- The gradient evaluations per example that the run itself takes. Those of probes are not among them: looking at a run
-- changes neither its budget nor its place on a cost axis.
function Cost:gradients()
  return self.steps + self.passes
end

-- Write the counts into a flat table of numbers as "cost.steps", …, and read them back.
function Cost:save(numbers)
  for _, purpose in ipairs(PURPOSES) do
    numbers["cost." .. purpose] = self[purpose]
  end
end

function Cost:load(numbers)
  for _, purpose in ipairs(PURPOSES) do
    self[purpose] = numbers["cost." .. purpose] or 0
  end
end

function Cost:__tostring()
  local products = self.products > 0 and (", %d Hessian-vector products"):format(self.products) or ""
  return ("%d gradients (%d steps, %d passes), %d of probes, %d forward%s"):format(self:gradients(), self.steps,
    self.passes, self.probes, self.forward, products)
end

return cost
