SELECT visitor FROM about WHERE category = 'office' GROUP BY visitor HAVING count(*) >= 2
