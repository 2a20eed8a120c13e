-- bench_report.lua: what benchmarks print: figures as they come, progress on standard error, and at the end a table of
-- comparisons, each held against its target (reached or MISSED, and where there is an aim beyond it, whether that was),
-- and a table of steps as shares of the machine's peak.

local text_table = require "perigee.table"

local report = {}

local rows, shares = {}, {}

function report.say(fmt, ...) io.write(fmt:format(...), "\n") io.flush() end

function report.note(fmt, ...) io.stderr:write("  ", fmt:format(...), "\n") end

-- Seconds as people read them.
function report.duration(s)
  if s < 1e-3 then return ("%.2f us"):format(s * 1e6) end
  if s < 1 then return ("%.2f ms"):format(s * 1e3) end
  return ("%.2f s"):format(s)
end

-- Whether a ratio keeps within bounds { at_most = | at_least =, aim = }, as text for two columns.
local function judge(ratio, bounds)
  local at_most, at_least = bounds.at_most, bounds.at_least
  if not ratio or not (at_most or at_least) then return "-", "-" end
  local function holds(bound)
    if at_most then return ratio <= bound end
    return ratio >= bound
  end
  local sign = at_most and "<=" or ">="
  local target = ("%s %.4g"):format(sign, at_most or at_least)
  local verdict = holds(at_most or at_least) and "reached" or "MISSED"
  if bounds.aim then
    target = ("%s (aim %.3g)"):format(target, bounds.aim)
    if verdict == "reached" then verdict = holds(bounds.aim) and "aim reached" or "reached, aim not" end
  end
  return target, verdict
end

-- A comparison: what, against whom (nil: nobody), their and our seconds (theirs may be nil), a ratio and its bounds.
function report.compare(what, against, theirs, ours, ratio, bounds)
  local target, verdict = judge(ratio, bounds or {})
  rows[#rows + 1] = {
    what, against or "-", theirs and report.duration(theirs) or "-", report.duration(ours),
    ratio and ("%.3f"):format(ratio) or "-", target, verdict,
  }
end

-- A step's floating-point work: operations and seconds of a step, and the machine's rates { gemm =, fma = or nil }.
function report.share(what, flops, seconds, peaks)
  local rate = flops / seconds
  local function percent(peak) return peak and ("%.0f%%"):format(100 * rate / peak) or "-" end
  shares[#shares + 1] = {
    what, ("%.4g"):format(flops / 1e6), report.duration(seconds), ("%.1f"):format(rate / 1e9), percent(peaks.gemm),
    percent(peaks.fma),
  }
end

function report.print()
  if #rows > 0 then
    text_table.print({ "what", "against", "theirs", "ours", "ratio", "target", "" }, rows)
  end
  if #shares > 0 then
    if #rows > 0 then report.say("") end
    text_table.print({ "floating-point work", "MFLOP", "step", "GFLOP/s", "of sgemm", "of an FMA loop" }, shares)
  end
end

return report
