SELECT visitor FROM bought GROUP BY visitor HAVING count(DISTINCT source) = 2
