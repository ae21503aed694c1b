SELECT visitor FROM bought WHERE department = 'grocery' AND day > today() - 60 GROUP BY visitor HAVING count(*) >= 5
