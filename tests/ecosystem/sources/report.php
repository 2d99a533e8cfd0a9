<?php
echo json_encode(["argv" => $argv, "php" => PHP_MAJOR_VERSION]), "\n";
exit(5);
