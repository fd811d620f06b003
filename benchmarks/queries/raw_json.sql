-- A field that nobody has declared, out of the records' own bytes.
-- class: raw
-- aquifer:
SELECT convert_from(_value, 'UTF8')::jsonb -> 'client' ->> 'browser' AS browser, count(*)
FROM page_views GROUP BY 1 ORDER BY 1
-- duckdb:
SELECT json_extract_string(decode(_value), '$.client.browser') AS browser, count(*)
FROM page_views GROUP BY 1 ORDER BY 1
