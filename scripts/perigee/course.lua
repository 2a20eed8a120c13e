-- course.lua: how far a training run has come, for pg.train: its epochs, when it evaluates and when it ends. Steps may
-- be of one size, and then an epoch is a number of steps, or of many, and then it is a number of examples.

local course = {}

local Course = {}
Course.__index = Course

-- Whole steps; of a part of an epoch at least one.
function course.steps_of_epochs(epochs, per_epoch)
  return epochs > 0 and math.max(1, math.floor(epochs * per_epoch + 0.5)) or 0
end

-- given: { source (a sampler), limit (steps at the latest), every (epochs between evaluations; 0: none), samples
-- (examples at the latest; or nil), gradients (a budget; or nil), cost (the meter) }.
function course.new(given)
  local self = setmetatable({ source = given.source, limit = given.limit, every = given.every, samples = given.samples,
    gradients = given.gradients, cost = given.cost }, Course)
  self.eval_steps = course.steps_of_epochs(given.every, given.source.per_epoch)
  return self
end

-- Before a step.
function Course:begin(step)
  if self.source.varies then self.before = self.source:seen(step) end
end

-- After it: epochs (completed, with fractions), evaluates, epoch_ended (its number, or nil), is_last.
function Course:finish(step)
  local source, done = self.source, step + 1
  if source.varies then
    local n, after, span = source.n, source:seen(done), self.every * source.n
    self.epochs = after / n
    self.evaluates = span > 0 and after // span > self.before // span
    self.epoch_ended = after % n == 0 and after // n or nil
    self.is_last = self.samples ~= nil and after >= self.samples
  else
    local per_epoch, every = source.per_epoch, self.eval_steps
    self.epochs = done / per_epoch
    self.evaluates = every > 0 and done % every == 0
    self.epoch_ended = done % per_epoch == 0 and done // per_epoch or nil
    self.is_last = false
  end
  self.is_last = self.is_last or done == self.limit
    or self.gradients ~= nil and self.cost:gradients() >= self.gradients
  self.evaluates = self.evaluates and not self.is_last
end

-- Epochs completed before a step, with fractions.
function Course:epochs_before(step)
  local source = self.source
  return source.varies and source:seen(step) / source.n or step / source.per_epoch
end

-- The part of the run that is over when `done` steps are made, and its length in epochs. steps: of a run whose steps
-- are of one size.
function Course:fraction(done, steps)
  local source = self.source
  if not source.varies or not self.samples then return done / steps, math.ceil(steps / source.per_epoch) end
  return math.min(1, source:seen(done) / self.samples), math.ceil(self.samples / source.n)
end

return course
