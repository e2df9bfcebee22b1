-- POST what the file named by the first argument holds; with "vary" as the second, no two alike.
wrk.method = "POST"

function init(args)
  local file = io.open(args[1], "rb")
  wrk.body = file:read("*a")
  file:close()
  if args[2] == "vary" then
    local count = 0
    function request()
      count = count + 1
      return wrk.format(nil, nil, nil, (wrk.body:gsub('"speed": [%d.]+', function()
        return string.format('"speed": %.9f', (count * 0.0001) % 200)
      end)))
    end
  end
end

function done(summary, latency, requests)
  local e, counts = summary.errors, {}
  for i = 1, #latency do
    counts[i] = string.format("[%d,%d]", latency(i))
  end
  io.write(string.format(
    '\nRESULT {"requests":%d,"us":%d,"errors":{"connect":%d,"read":%d,"write":%d,'
    .. '"status":%d,"timeout":%d},"counts":[%s]}\n',
    summary.requests, summary.duration, e.connect, e.read, e.write, e.status, e.timeout,
    table.concat(counts, ",")))
end
