-- Quartiles of every country's latency.
-- aquifer:
SELECT country, percentile_cont(0.25) WITHIN GROUP (ORDER BY latency_ms),
  percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms), percentile_cont(0.75) WITHIN GROUP (ORDER BY latency_ms)
FROM page_views GROUP BY country ORDER BY country
-- duckdb:
SELECT country, quantile_cont(latency_ms, 0.25), quantile_cont(latency_ms, 0.5), quantile_cont(latency_ms, 0.75)
FROM page_views GROUP BY country ORDER BY country
