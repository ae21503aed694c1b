SELECT visitor FROM seen GROUP BY visitor HAVING count(*) >= 8
