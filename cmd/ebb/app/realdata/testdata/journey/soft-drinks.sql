SELECT visitor FROM bought WHERE department = 'grocery' AND product_category = 'soft-drinks' GROUP BY visitor HAVING count(*) BETWEEN 2 AND 6
