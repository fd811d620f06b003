-- What somebody looks at first. Which ten rows come is chance, so only the time to the first is measured.
-- class: first row
-- aquifer:
SELECT * FROM page_views LIMIT 10
