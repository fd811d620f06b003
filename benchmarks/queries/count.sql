-- How many views there were at all.
-- both:
SELECT count(*) FROM page_views
