SELECT visitor FROM seen GROUP BY visitor HAVING count(*) = 1 EXCEPT SELECT visitor FROM about WHERE category = 'service'
