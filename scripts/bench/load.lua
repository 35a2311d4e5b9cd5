-- One prediction over and over; the body and the pause between two requests of a connection come
-- from the environment. Prints what was measured as one line of JSON.

local file = assert(io.open(os.getenv("BENCH_BODY"), "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = os.getenv("BENCH_TYPE") or "application/json"
local json_length = os.getenv("BENCH_JSON_LENGTH")
if json_length then wrk.headers["Inference-Header-Content-Length"] = json_length end

local pause_ms = tonumber(os.getenv("BENCH_PAUSE_MS") or "0")
if pause_ms > 0 then
    function delay() return pause_ms end
end

function done(summary, latency)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.timeout
    local answered = summary.requests - errors.status
    io.write(string.format(
        '{"rate": %.1f, "refused": %d, "failed": %d, "p50_us": %d, "p99_us": %d}\n',
        answered / (summary.duration / 1e6), errors.status, failed,
        latency:percentile(50), latency:percentile(99)))
end
