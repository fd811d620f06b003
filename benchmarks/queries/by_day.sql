-- Views and bytes of each day.
-- aquifer:
SELECT date_trunc('day', viewed_at) AS day, count(*), sum(bytes) FROM page_views GROUP BY 1 ORDER BY 1
-- duckdb:
SELECT date_trunc('day', viewed_at)::TIMESTAMP AS day, count(*), sum(bytes) FROM page_views GROUP BY 1 ORDER BY 1
