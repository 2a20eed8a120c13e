-- comparison.lua: a classifier trained by several methods: what each reaches and costs, in a table, and the training
-- loss against what was paid. For recipes: local compare = require "parts.comparison".

local pg = require "perigee"

local function loss(net, theta, batch, ctx)
  return pg.cross_entropy(net(theta, batch.x, ctx), batch.y)
end

-- given: { name = before each method's in the names of runs, model, data, methods = { { name, optimizer }, … }, only =
-- one of their names or "all", epochs, batch, seed }
return function(given)
  local rows, curves, directory = {}, {}, nil
  for _, method in ipairs(given.methods) do
    local name, optimizer = method[1], method[2]
    if given.only == "all" or given.only == name then
      local run = pg.train {
        name = given.name .. "-" .. name, model = given.model, data = given.data, loss = loss, optimizer = optimizer,
        epochs = given.epochs, batch = given.batch, seed = given.seed, metrics = { accuracy = pg.metric.accuracy },
        log_every = 100,
      }
      rows[#rows + 1] = {
        name, ("%.2f%%"):format(100 * run.metrics.accuracy), ("%.4f"):format(run.metrics.loss),
        pg.table.thousands(run.cost:gradients()), ("%.1f"):format(run.seconds),
      }
      directory = run.directory
      curves[#curves + 1] = run:curve("loss", "gradients", name)
    end
  end

  pg.table.print({ "method", "test accuracy", "test loss", "gradient evaluations", "seconds" }, rows)
  print()
  local labels = { title = "training loss", log = true, xlabel = "gradient evaluations" }
  io.write(pg.plot.draw(curves, labels))
  pg.plot.save(directory .. "/loss.svg", curves, labels)
end
