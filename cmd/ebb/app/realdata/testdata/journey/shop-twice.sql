SELECT visitor FROM bought WHERE department = 'grocery' AND source = 'shop' AND day > today() - 60 GROUP BY visitor HAVING count(*) >= 2
