SELECT visitor FROM bought GROUP BY visitor HAVING count(*) FILTER (brand = 'Private') >= 3 AND count(*) FILTER (brand = 'National') <= 9
