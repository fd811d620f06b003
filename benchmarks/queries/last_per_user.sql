-- What each user did last, added up so that the answer is small.
-- aquifer:
SELECT count(*), sum(ms) FROM (
  SELECT user_id, last_value(latency_ms ORDER BY viewed_at) AS ms FROM page_views GROUP BY user_id
) AS latest
-- duckdb:
SELECT count(*), sum(ms) FROM (
  SELECT user_id, arg_max(latency_ms, viewed_at) AS ms FROM page_views GROUP BY user_id
) AS latest
