SELECT visitor FROM bought GROUP BY visitor HAVING count(*) FILTER (source = 'outlet') > 0 AND count(*) FILTER (source = 'shop') = 0
