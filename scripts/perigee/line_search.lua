-- line_search.lua: the step along a descent direction that the strong Wolfe conditions ask for (Nocedal & Wright 2006,
-- ch. 3.5): the value has fallen by a share of what the slope promised, and the slope is flatter. A bracket is kept
-- whose left end has fallen enough and still slopes down, and whose right end has gone too far; so it always holds such
-- a step. Near a minimum, where values are all rounding, slopes decide alone.

local ENOUGH = 1e-4    -- share of the promised fall that is asked for
local ROUNDING = 1e-10 -- relative to the value: falls below this are not told from rounding
local MOST = 40        -- evaluations
local EDGE = 0.01      -- share of a bracket that a step keeps from its ends
local CHECKED = 3      -- in so many evaluations a bracket is to lose half its width

-- Why a step of this value and slope is no good: "short", "far", or nil.
local function judge(from, at, curvature)
  local blur = ROUNDING * math.max(1, math.abs(from.value))
  local is_flat = -from.slope * at.t <= blur
  local allowed = from.value + (is_flat and blur or ENOUGH * at.t * from.slope)
  if at.value > allowed or at.value ~= at.value or at.slope ~= at.slope then return "far" end
  if at.slope < curvature * from.slope then return "short" end
  if at.slope > -curvature * from.slope then return "far" end
end

-- Where the slope between two points crosses 0 by their slopes, or by the values where the right end slopes down too.
local function cross(low, high)
  local width = high.t - low.t
  if high.slope > 0 then return low.t - low.slope * width / (high.slope - low.slope) end
  return low.t - low.slope * width ^ 2 / (2 * (high.value - low.value - low.slope * width))
end

local function inside(low, high)
  local t, width = cross(low, high), high.t - low.t
  if t ~= t or math.abs(t) == math.huge then return low.t + width / 2 end
  return math.max(low.t + EDGE * width, math.min(high.t - EDGE * width, t))
end

-- Beyond a step that was too short: where its slope seems to end, between 1.1 and 10 times the step.
local function beyond(before, at)
  local t = at.t - at.slope * (at.t - before.t) / (at.slope - before.slope)
  if at.slope <= before.slope then t = math.huge end
  return math.max(1.1 * at.t, math.min(10 * at.t, t))
end

-- evaluate(t) → { t, value, slope, … } along the direction. from: that of t = 0. first: the first t to try. curvature:
-- how flat the slope has to become. → the accepted one, or nil; evaluations taken.
return function(evaluate, from, first, curvature)
  local low, high, t, width = from, nil, first, math.huge
  for count = 1, MOST do
    local at = evaluate(t)
    local fault = judge(from, at, curvature)
    if not fault then return at, count end
    if fault == "far" then
      high = at
    elseif not high then
      t = beyond(low, at)
    end
    if fault == "short" then low = at end
    if high then
      t = inside(low, high)
      if count % CHECKED == 0 then
        if high.t - low.t > width / 2 then t = (low.t + high.t) / 2 end
        width = high.t - low.t
      end
      if high.t - low.t <= 1e-16 * high.t then return nil, count end
    end
  end
  return nil, MOST
end
