-- An area that is in two groups below products is one visit of products.
SELECT visitor FROM about WHERE category = 'products' GROUP BY visitor HAVING count(DISTINCT area) BETWEEN 3 AND 6
