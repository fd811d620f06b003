-- Exact percentiles of every country's latency. As floats: of integers DataFusion interpolates to six digits only.
-- aquifer:
SELECT country, percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms::float8),
  percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms::float8)
FROM page_views GROUP BY country ORDER BY country
-- duckdb:
SELECT country, quantile_cont(latency_ms::DOUBLE, 0.5), quantile_cont(latency_ms::DOUBLE, 0.95)
FROM page_views GROUP BY country ORDER BY country
