SELECT visitor FROM seen GROUP BY visitor HAVING count(DISTINCT day) = 1
