-- One day of the year.
-- both:
SELECT count(*), sum(bytes), max(latency_ms) FROM page_views
WHERE viewed_at >= timestamp '2024-06-01 00:00:00' AND viewed_at < timestamp '2024-06-02 00:00:00'
