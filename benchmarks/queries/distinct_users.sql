-- How many users there were.
-- both:
SELECT count(DISTINCT user_id) FROM page_views
