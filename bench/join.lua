-- Each request takes a number, with a request id that nobody used before.
local thread, at = 0, 0
setup = function(t) t:set("id", thread); thread = thread + 1 end
init = function() prefix = string.format("%s-%d-", os.getenv("BENCH_RUN"), id) end
request = function()
  at = at + 1
  local body = string.format(
    '{"name":"Karen Nolan","service":"look-up-phone","request_id":"%s%d"}', prefix, at)
  return wrk.format("POST", "/api/lines/desk/tickets", { ["Content-Type"] = "application/json" }, body)
end
