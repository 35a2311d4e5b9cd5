-- Deletion requests, each for another person. Prints what was measured as one line of JSON.

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"

local person = -1

function request()
    person = person + 1
    return wrk.format(nil, nil, nil,
        string.format('{"model":"flood","subjects":["train-%d"]}', person))
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format('{"accepted": %d, "seconds": %.3f, "refused": %d, "p99_us": %d}\n',
        summary.requests - errors.status, summary.duration / 1e6, errors.status,
        latency:percentile(99)))
end
