-- A category whose children lie in other departments too.
SELECT visitor FROM bought
WHERE department = 'frozen-grocery' OR product_category LIKE 'frzn%' OR product_category LIKE 'frozen%'
GROUP BY visitor HAVING count(DISTINCT day) >= 2
