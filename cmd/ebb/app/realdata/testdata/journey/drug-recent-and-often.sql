SELECT visitor FROM bought WHERE department = 'drug-gm' GROUP BY visitor HAVING count(*) >= 2 AND today() - max(day) <= 13
