-- A join with a table: what was seen of each section.
-- both:
SELECT p.section, count(*), sum(v.bytes) FROM page_views v JOIN pages p ON v.page = p.page
GROUP BY p.section ORDER BY p.section
