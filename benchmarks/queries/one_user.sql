-- Everything of one key.
-- both:
SELECT count(*), sum(bytes), min(at), max(at) FROM page_views WHERE user_id = 'u00000321'
