-- Each request is a poll with one of many tickets, as browsers would send them.
local tickets = {}
for ticket in io.lines(os.getenv("BENCH_TICKETS")) do tickets[#tickets + 1] = ticket end
local at = 0
request = function()
  at = at % #tickets + 1
  return wrk.format("GET", "/api/lines/desk/ticket", { Authorization = "Ticket " .. tickets[at] })
end
