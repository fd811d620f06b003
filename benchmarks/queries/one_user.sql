-- Everything of one key.
-- both:
SELECT count(*), sum(bytes), min(viewed_at), max(viewed_at) FROM page_views WHERE user_id = 'u00000321'
