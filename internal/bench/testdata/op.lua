-- wrk script of the benchmark. It is steered by the environment:
--   METHOD  GET or PUT
--   TARGET  path; PUT appends "<thread>-<counter>"
--   RANGE   GET: number of 4 KiB blocks to choose a random range from (0: whole file)
--   RING    PUT: names are used again after this many (0: every name is new)
-- It prints one line: R <requests answered well> <microseconds> <errors> <p50 us> <p99 us>
local method, target = os.getenv("METHOD"), os.getenv("TARGET")
local blocks, ring = tonumber(os.getenv("RANGE")), tonumber(os.getenv("RING"))
local threads = 0

function setup(thread)
  thread:set("id", threads)
  threads = threads + 1
end

local n, headers, body = 0, {}, nil

local function put()
  n = n + 1
  local k = n
  if ring > 0 then k = n % ring end
  return wrk.format("PUT", target .. id .. "-" .. k, headers, body)
end

local function range()
  local first = math.random(0, blocks - 1) * 4096
  headers["Range"] = "bytes=" .. first .. "-" .. (first + 4095)
  return wrk.format("GET", target, headers)
end

-- A request that never changes is rendered once by wrk itself: it costs the
-- client least when no request function is defined.
function init(args)
  math.randomseed(id + 1)
  if method == "PUT" then
    local t = {}
    for i = 0, 4095 do t[i + 1] = string.char(33 + (i * 7) % 91) end
    body = table.concat(t)
    headers["Content-Type"] = "application/octet-stream"
    request = put
  elseif blocks > 0 then
    request = range
  else
    wrk.method, wrk.path = "GET", target
    local rendered = wrk.format()
    request = function() return rendered end
  end
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("R %d %d %d %d %d\n", summary.requests - summary.errors.status, summary.duration,
    e.status + e.connect + e.read + e.write + e.timeout, latency:percentile(50), latency:percentile(99)))
end
